"""A process of its own that starts a VM through its hypervisor: ``start_job.py HYPERVISOR UUID``.

An ordinary start: the hypervisor calls vmguard's hook, which claims the disks or refuses. The daemon itself never
speaks to libvirt; this process may hang in it and is killed then.
"""

from __future__ import annotations

import os
import sys

_COMMANDS = {"libvirt": ("virsh", "-q", "-c", "qemu:///system", "start")}


def main() -> int:
    hypervisor, uuid = sys.argv[2:4]
    command = _COMMANDS.get(hypervisor)
    if command is None:
        sys.stderr.write(f"a VM of {hypervisor} is not started again by this version\n")
        return 1
    try:
        os.execvp(command[0], [*command, uuid])
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
