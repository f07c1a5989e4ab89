"""The control group that a hypervisor makes for one VM, read from /proc/PID/cgroup. No system calls.

Only root puts a process there, and no process leaves it by itself: it tells the processes of one VM from those of
another, also where both run as the same user. A user may well make a group of that name in a part of the tree that was
handed to him (user.slice), so only a path from the root of the tree counts. Both cgroup v1 and v2 are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: libvirt's group, by systemd (virSystemdMakeScopeName in util/virsystemd.c) or without it (virCgroupNewMachineManual)
_LIBVIRT = re.compile(
    r"(/machine(?:\.slice)?(?:/[^/]+\.(?:slice|partition))*"
    r"/(?:machine-(qemu\\x2d[^/]+)\.scope|(qemu-[^/]+)\.libvirt-qemu))(?:/|$)"
)
#: Proxmox's group (PVE::Systemd, enter_systemd_scope)
_PROXMOX = re.compile(r"(/qemu\.slice/([1-9]\d{2,8})\.scope)(?:/|$)")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
#: ``qemu-7-web``, of which libvirt makes the group's name: the driver, the VM's number, and what is left of its name,
#: which may be nothing
_MACHINE = re.compile(r"qemu-(?:embed-[^-]+-)?\d+(?:-(.*))?")
#: of a machine's name that is this long, the end may be missing (virDomainDriverGenerateMachineName: 64 letters)
_CUT_AT = 63
_DROPPED = re.compile(r"[^0-9A-Za-z]")


@dataclass(frozen=True)
class VmScope:
    """The control group of one VM."""

    #: from the root of the tree
    path: str
    #: the VM as libvirt calls it there (``qemu-7-web``); empty for another hypervisor's
    machine: str = ""
    #: the VM's number on Proxmox; empty for another hypervisor's
    vmid: str = ""

    def is_machine_of(self, name: str) -> bool:
        """Return whether it may be the group of libvirt's VM of that name: libvirt leaves out what no host name has."""
        found = _MACHINE.fullmatch(self.machine)
        if found is None:
            return False
        shown, whole = _DROPPED.sub("", found[1] or ""), _DROPPED.sub("", name)
        return whole.startswith(shown) if len(self.machine) >= _CUT_AT else whole == shown


def scope_in(cgroups: str) -> VmScope | None:
    """Return the VM's control group that /proc/PID/cgroup shows; None if the process is in none."""
    if "/qemu" not in cgroups and "/machine" not in cgroups:
        return None
    for line in cgroups.split("\n"):  # not splitlines(): a user's group may have any other end of a line in its name
        path = line.partition(":")[2].partition(":")[2]
        found = _LIBVIRT.match(path)
        if found:
            by_systemd = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), found[2] or "")
            return VmScope(found[1], machine=by_systemd or found[3])
        found = _PROXMOX.match(path)
        if found:
            return VmScope(found[1], vmid=found[2])
    return None
