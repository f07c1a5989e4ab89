"""Outlive a stopped daemon with its descriptors, so that PID 1 closes none last: ``hold_fds LOCK SECONDS FD...``.

``systemctl stop`` empties the descriptor store (systemd before 254; see adapters/linux/systemd.py). What no living QEMU
has open, a claim whose QEMU has not come yet or the disks of a dead one that are not drained, would then be closed last
by PID 1, which would wait for the storage. This process has copies and closes them later: as soon as the next daemon
has taken the store over (it holds LOCK, the file daemon.lock), else after SECONDS, and not before what the dead QEMU
had queued is through. Nothing waits for it.
"""

from __future__ import annotations

import os
import sys
import time

from vmguard.adapters.linux import ofd
from vmguard.jobs.drain import drain

_POLL_S = 0.1


def _holder(path: str) -> int:
    """Return the pid that holds the lock, 0 if none does. It is never taken: the next daemon must get it."""
    with open(path, "rb") as stream:
        return ofd.posix_holder(stream.fileno())


def main() -> int:
    path, seconds, fds = sys.argv[1], float(sys.argv[2]), [int(word) for word in sys.argv[3:]]
    stopped = os.getppid()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_POLL_S)
        if _holder(path) not in (0, stopped):
            return 0
    for fd in fds:
        drain(fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
