"""The guard's ways to a lock beside the pin, in this process, on a disk that the server has delegated to this host.

delegated.py WAY PATH [keep]: WAY is ``beside`` (the kernel does not let a daemon copy QEMU's descriptor) or ``again``
(a lost lock is taken anew on QEMU's own). A process stands for QEMU, which opens the disk with a cache. ``keep`` is the
control: nobody looks whether the lock has left this host. It says "locked" and holds what it has until its input ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from vmguard.adapters.linux import ofd, pidfd, proc
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import WHOLE
from vmguard.daemon.pin.lock_transfer import Order, carry_out, lock_again

_QEMU = "import os, sys; print(os.open(sys.argv[1], os.O_RDWR), flush=True); sys.stdin.read()"


def forbidden(pidfd: int, fd: int) -> int:
    raise PermissionError(1, "Operation not permitted")


def main(way: str, path: str, *words: str) -> None:
    if words:
        ofd.stays_here = lambda fd: False
    qemu = subprocess.Popen([sys.executable, "-c", _QEMU, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert qemu.stdout is not None
    fd, process = int(qemu.stdout.readline()), os.pidfd_open(qemu.pid)
    if way == "beside":
        pidfd.copy_descriptor = forbidden
        own = os.open(path, os.O_PATH)
        order = Order(path, proc.own_key(own), qemu.pid, process, fd, EXCLUSIVE, (WHOLE,), None, None)
        outcome = carry_out(order, time.monotonic)
        assert outcome.copy is not None, outcome
    else:
        lock_again(process, fd, path, EXCLUSIVE, (WHOLE,), time.monotonic)
    print("locked", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
