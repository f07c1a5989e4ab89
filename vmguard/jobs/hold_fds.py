"""A process that outlives a stopped daemon, so that PID 1 closes nothing last: ``hold_fds.py LOCK SECONDS FD...``.

``systemctl stop`` empties the descriptor store (systemd before 254; see adapters/systemd.py). What no living QEMU has
open, a claim whose QEMU has not come yet or the disks of a dead one that are not drained, would then be closed last by
PID 1, which would wait for the storage. This process has copies and closes them later, in its own good time: as soon
as the next daemon has taken the store over (it holds LOCK, the file daemon.lock), else after SECONDS, and not before
what the dead QEMU had queued is through. Nobody waits for it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time

from vmguard.jobs.drain import drain

_LOOK = 0.1
# struct flock of 64-bit Linux: l_type, l_whence, (padding), l_start, l_len, l_pid, (padding)
_FLOCK = "hhqqi4x"


def _holder(path: str) -> int:
    """The process that holds the lock, 0 when nobody does. Only asked, never taken: the next daemon must get it."""
    with open(path, "rb") as stream:
        answer = struct.unpack(
            _FLOCK, fcntl.fcntl(stream, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
        )
    return 0 if answer[0] == fcntl.F_UNLCK else int(answer[4])


def main() -> int:
    path, seconds, fds = sys.argv[2], float(sys.argv[3]), [int(word) for word in sys.argv[4:]]
    stopped = os.getppid()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_LOOK)
        if _holder(path) not in (0, stopped):
            return 0
    for fd in fds:
        drain(fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
