"""Set a guest's clock to this host's, in a process of its own: ``set_guest_clock HYPERVISOR UUID``.

A VM that stood still for a while has a clock that is late by as much. Only an agent in the guest can set it; a guest
without one is named in the log. The daemon itself never speaks to a hypervisor; this process may hang in it, and is
killed then.
"""

from __future__ import annotations

import sys

from vmguard.adapters import hypervisors
from vmguard.adapters.linux.spawn import become


def main() -> int:
    hypervisor, uuid = sys.argv[1:3]
    command = hypervisors.by_name(hypervisor).set_clock_command(uuid)
    if not command:
        sys.stderr.write(f"the clock of a VM of {hypervisor} is not set by this version\n")
        return 1
    try:
        become(command)
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
