"""Ask a hypervisor to do something with a VM, in a process of its own: ``hypervisor VERB HYPERVISOR UUID``.

start       an ordinary start: the hypervisor calls vmguard's hook, which claims the disks or refuses
clean-up    after a kill: what the hypervisor does when it sees the end of a VM itself (tap devices, pid file, hooks)

The daemon itself never speaks to a hypervisor; this process may hang in it and is killed then.

``virsh`` only asks libvirt, but ``qm`` starts QEMU itself: below the daemon it would inherit the daemon's name spaces,
its scheduling and its protection against the OOM killer. So systemd runs it, in a unit of its own.
"""

from __future__ import annotations

import os
import sys

from vmguard.adapters import hypervisors
from vmguard.adapters.linux.spawn import become

#: there when systemd runs this host (sd_booted(3))
_SYSTEMD = "/run/systemd/system"
_APART = ("systemd-run", "--quiet", "--collect", "--wait", "--description=vmguard: {} VM {}", "--")


def words(verb: str, hypervisor: str, uuid: str, with_systemd: bool) -> list[str]:
    """Return the command; empty if there is none."""
    known = hypervisors.by_name(hypervisor)
    commands = {"start": known.start_command, "clean-up": known.clean_up_command}
    command = commands[verb](uuid) if verb in commands else []
    apart = [word.format(verb, uuid) for word in _APART] if known.starts_qemu_itself and with_systemd else []
    return apart + command if command else []


def main() -> int:
    verb, hypervisor, uuid = sys.argv[1:4]
    command = words(verb, hypervisor, uuid, os.path.isdir(_SYSTEMD))
    if not command:
        sys.stderr.write(f"{verb} {uuid}: this version cannot do that for a VM of {hypervisor}\n")
        return 1
    try:
        become(command)
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
