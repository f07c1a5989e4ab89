"""In a guest: takes the locks of a running process from it: ``unlock.py PID FILE``.

What a guard would do that lets go of a VM's disk before its QEMU has.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))
from vmguard.adapters.linux import ofd, pidfd
from vmguard.core.locks.ranges import WHOLE


def main() -> None:
    pid, path = int(sys.argv[1]), sys.argv[2]
    process = os.pidfd_open(pid)
    numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{name}") == path]
    for number in numbers:
        ofd.unlock(pidfd.copy_descriptor(process, number), WHOLE)
    print(len(numbers))


if __name__ == "__main__":
    main()
