"""Start the daemon's programs and have copies of what systemd keeps: ``keeper SOCKET LOCK``.

adapters/linux/keeper.py says why, and speaks to it. This process has no descriptor of a share, only parcels
(adapters/linux/parcel.py). It outlives the daemon, however that ends, so that PID 1, which closes what it keeps at
``systemctl stop`` (systemd before 254), is never the last to close: it would wait for the storage, and answer nobody on
this host any more. As soon as the next daemon has taken the store over (it holds LOCK, the file daemon.lock) the copies
are closed; else after some time, when PID 1 has none any more (systemd 254 keeps them after a stop), and not before
what a dead QEMU had queued is through. Nothing waits for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from vmguard.adapters.linux import clock, ofd, parcel
from vmguard.adapters.linux.keeper import CHUNK, DROP, KEEP, START
from vmguard.adapters.linux.spawn import IGNORED, become
from vmguard.jobs.drain import drain

#: for which the descriptors of a daemon that is gone stay open without a next one
_LINGER_S = 30.0
_POLL_S = 0.1
_SLOW_POLL_S = 5.0
_PID_1 = 1
_CLONE_PARENT = 0x00008000
#: the number of clone(2); glibc's own function would want a stack
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120}
#: longest message
_BYTES = 4096


def main() -> int:
    control, lock = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    os.set_inheritable(control.fileno(), False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when its work is done
    daemon = os.getppid()
    kept: dict[str, list[int]] = {}
    while True:
        try:
            data, fds = parcel.receive(control, _BYTES, 1)
        except OSError:
            break
        if not data:
            break
        word, _, name = data.decode().partition(" ")
        if word == KEEP:
            kept.setdefault(name, []).extend(fds)
            continue
        gone = kept.pop(name, []) if word == DROP else []
        if word == START and fds:
            _start(fds[0])
        for fd in [*fds, *gone]:
            os.close(fd)
    control.close()
    if kept:
        _linger(lock, daemon, [fd for fds in kept.values() for fd in fds])
    return 0


# -- programs ---------------------------------------------------------------------------------------------------------


def _start(channel: int) -> None:
    """Have a new child of the daemon become what it reads from a connection."""
    number = _SYS_CLONE.get(os.uname().machine)
    if number is None:
        return
    # Not os.fork(): that would be a child of ours. The interpreter's lock is kept meanwhile.
    if ctypes.PyDLL(None).syscall(number, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        try:
            _become(channel)
        finally:
            os._exit(127)


def _become(channel: int) -> NoReturn:
    """Become the ordered program, in a process of its own.

    exec closes descriptors in the order of their numbers. The connection's end comes before all that was received:
    with it the daemon learns that the program is there.
    """
    with socket.socket(fileno=os.dup(channel)) as sock:
        _, [order_fd] = parcel.receive(sock, _BYTES, 1)
        with open(order_fd, "rb") as stream:
            stream.seek(0)
            order = json.load(stream)
        places: list[int] = order["places"]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        last = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, max([2, *places]) + 1)
    os.close(channel)
    while os.dup(null) < last:
        pass  # no received descriptor may get a lower number: nothing on a share is replaced below
    with socket.socket(fileno=last) as end:
        fds: list[int] = []
        while len(fds) < len(places):
            _, more = parcel.receive(end, _BYTES, CHUNK)
            if not more:
                os._exit(127)
            fds += more
        end.send(str(os.getpid()).encode())
        try:
            _arrange(order, places, fds, null)
            become(order["words"], order["env"])
        except OSError as problem:
            end.send(str(problem.errno).encode())
            os._exit(127)


def _arrange(order: dict[str, Any], places: list[int], fds: list[int], null: int) -> None:
    if order["session"]:
        os.setsid()
    for number in (*IGNORED, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for place in {0, 1, *places}:
        os.dup2(null, place)
    for place, fd in zip(places, fds, strict=True):
        os.dup2(fd, place)


# -- after the daemon -------------------------------------------------------------------------------------------------


def _linger(lock: str, daemon: int, parcels: list[int]) -> None:
    """Return when the copies may be closed."""
    end = clock.boottime() + _LINGER_S
    links = {f"socket:[{os.fstat(fd).st_ino}]" for fd in parcels}
    while clock.boottime() < end or links & _links_of(_PID_1):
        time.sleep(_POLL_S if clock.boottime() < end else _SLOW_POLL_S)
        if _holder(lock) not in (0, daemon):
            return
    for fd in parcels:
        with contextlib.suppress(OSError):
            _drain(fd)


def _links_of(pid: int) -> set[str]:
    """Return what a process has open; systemd 254 and later keeps it after a stop."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def _holder(path: str) -> int:
    """Return the pid that holds the lock, 0 if none does. It is never taken: the next daemon must get it."""
    with open(path, "rb") as stream:
        return ofd.posix_holder(stream.fileno())


def _drain(fd: int) -> None:
    """Wait for what is queued, through a description of our own: the one in the parcel may be a living QEMU's."""
    found = parcel.unwrap(fd)
    if found is not None:
        drain(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))


if __name__ == "__main__":
    sys.exit(main())
