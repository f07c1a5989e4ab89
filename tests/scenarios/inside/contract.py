"""In a guest, in the daemon's place: what the daemon needs of the descriptor store, asked step by step.

    contract.py FILE LOG      one JSON line for each time that it is started; it ends itself with SIGKILL

The first one stores, the second one looks what came back and removes, the third one finds nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from vmguard.adapters.linux import systemd

F_OFD_SETLK = 37
FLOCK = struct.Struct("hhqqi4x")
NAME = "libvirt-00000000-0000-0000-0000-000000000001.1f.2"


def locked(path: str, start: int = 0) -> int:
    """A new description of the file, with 10 bytes of it locked; -1 when somebody has them."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 10, 0))
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


def main() -> None:
    path, log = sys.argv[1:]
    with open(log, "a+") as stream:
        stream.seek(0)
        turn = len(stream.readlines())
        passed = systemd.listen_fds()
        said: dict[str, object] = {"names": [name for name, _ in passed]}
        systemd.notify("READY=1")
        if turn == 0:
            fd = locked(path)
            said["free at first"] = fd >= 0
            systemd.store(NAME, fd)
            other = os.open("/etc/hostname", os.O_RDONLY)
            systemd.store("libvirt-other", other)
            systemd.store("libvirt-gone", os.open("/etc/hosts", os.O_RDONLY))
            systemd.forget("libvirt-gone")
            systemd.forget("libvirt-never-was")
            said["barrier"] = systemd.barrier()
            said["close-on-exec"] = [os.get_inheritable(number) for _, number in passed]
        elif turn == 1:
            kept = systemd.unpack({name: fd for name, fd in passed if "-" in name})
            said["locked by what was kept"] = locked(path) < 0
            systemd.forget(NAME)
            systemd.forget("libvirt-other")
            said["barrier"] = systemd.barrier()
            said["locked by our own copy"] = locked(path) < 0
            os.close(kept[NAME])
            said["free when it is closed"] = locked(path) >= 0
        print(json.dumps(said), file=stream, flush=True)
    if turn == 2:
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
