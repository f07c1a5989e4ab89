"""Recover descriptors that systemd kept but no state file mentions (/run was cleaned up or full).

The name of a stored descriptor says which file of which VM it belongs to, and the kernel knows the locks on it. That
suffices to guard the VM. Without it, this host's own forgotten lock would look like a rival's, and the VM would be
stopped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import proc
from vmguard.core import HYPERVISORS
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import Origin
from vmguard.core.locks.plan import EXCLUSIVE, SHARED, role_of_found
from vmguard.core.locks.ranges import RESERVATION, Range
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import ANOTHER_HOST, GuardedVm
from vmguard.daemon.registry.store import Registry

log = logging.getLogger("vmguard.claim")

#: the source of a file whose claim is lost
_SOURCE = "systemd's descriptor store"


def take_in(
    stored: dict[str, int], registry: Registry, pieces_of: Callable[[str], list[Range]], run_dirs: RunDirs
) -> list[GuardedVm]:
    """Give each descriptor that no state file mentions to its VM, which is rebuilt if its state file is lost, too.

    Return the rebuilt VMs. All descriptors stay in ``stored``, for ClaimLifecycle.resume; those without a lock, or
    without a name of ours, stay there for good.
    """
    known = {vm.store_name(file) for vm in registry for file in vm.files}
    made: dict[str, GuardedVm] = {}
    for name, fd in stored.items():
        owner = _owner(name)
        if owner is None or name in known:
            continue
        hypervisor, uuid = owner
        vm = registry.get(f"{hypervisor}-{uuid}")
        file = _file(name, fd, list(pieces_of(hypervisor)), claimed=vm is None or vm.id in made)
        if file is None:
            continue
        if vm is None:
            title = hypervisors.by_name(hypervisor).name_of(run_dirs, uuid)
            vm = GuardedVm(hypervisor, title or uuid, uuid, state=State.CLAIMED, rebuilt=True)
            vm.why = "its state file was lost"
            registry.take_up(vm)
            made[vm.id] = vm
        vm.files.append(file)
        if file.guard.is_reserved:
            vm.incoming = vm.incoming or ANOTHER_HOST
        log.warning("%s: an earlier daemon locked %s, but no state file mentions it", vm.title, file.path)
    for vm in made.values():
        registry.save(vm)
    return list(made.values())


def _owner(name: str) -> tuple[str, str] | None:
    """Parse hypervisor and uuid from a name made by GuardedVm.store_name; return None for any other name."""
    hypervisor, _, uuid = name.rsplit(".", 2)[0].partition("-")
    return (hypervisor, uuid) if hypervisor in HYPERVISORS and uuid else None


def _file(name: str, fd: int, pieces: list[Range], claimed: bool) -> GuardedFile | None:
    """Return the file of a stored descriptor; None if it carries no lock, or is of another file.

    ``claimed``: the file may have been part of the VM's claim, which is lost, too. Otherwise the claim is known and
    does not name the file: QEMU had it open at some time, and its lock is released unless it still has.
    """
    device, inode = name.rsplit(".", 2)[1:]
    info = proc.fdinfo("self", fd)
    locks = proc.lock_ranges(info)
    if not locks or str(info.inode) != inode:
        return None
    exclusive = any(write for write, _, _ in locks)
    mode = EXCLUSIVE if exclusive else SHARED
    if locks == [(True, *RESERVATION)]:
        origin = Origin.RESERVED
    elif claimed:
        origin = Origin.of_claim(mode)
    else:
        origin = Origin.RECOVERED if exclusive else Origin.FOUND
    path = os.readlink(f"/proc/self/fd/{fd}")
    return GuardedFile(
        path=path,
        mode=mode,
        role=role_of_found(path, exclusive),
        source=_SOURCE,
        key=(int(device, 16), info.inode),
        pieces=pieces,
        origin=origin,
    )
