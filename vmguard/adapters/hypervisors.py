"""The table of hypervisors, the one that is none (a VM that nobody we know manages), and whose VM a process is.

A process is a VM's QEMU by a chain that no stranger can forge: a pid file that only root can have written names it, it
began before that file was written, and it is in no other VM's control group. Its arguments only narrow that down: they
must name the VM, and are no proof by themselves. A hypervisor's VM without that chain is nobody's (Bare).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from vmguard.adapters.hypervisor import Hypervisor, RunDirs
from vmguard.adapters.libvirt.hypervisor import Libvirt
from vmguard.adapters.linux import pid_file, roots_file, standing
from vmguard.adapters.linux.proc import CommandLine
from vmguard.adapters.linux.standing import Standing
from vmguard.adapters.proxmox.hypervisor import Proxmox
from vmguard.core import BARE
from vmguard.core.sources.process_arguments import Identity, Kind, Served, identity
from vmguard.core.sources.vm_scope import VmScope


class Bare:
    """Nobody's VM: a QEMU that a person or a script has started. See Hypervisor for what each member means."""

    name = BARE
    has_hook = False
    hook_per_vm = False
    hook_may_wait = False
    serialises_starts = False
    takes_image_locks = True
    runs_qemu_as_root = False
    tells_ends_late = False
    needs_clean_up = False
    sends_events = False
    starts_qemu_itself = False
    pid_file_comes_late = False
    leftover_wait_s = 2.0

    def is_id(self, uuid: str) -> bool:
        return False  # nobody may claim in its name

    def id_of(self, about: Identity) -> str:
        return about.uuid

    def pid_file(self, run_dirs: RunDirs, name: str, uuid: str) -> str:
        return ""

    def is_qemu_of(self, run_dirs: RunDirs, arguments: list[str], uuid: str) -> bool:
        return True  # there is nothing to know it by but the process itself

    def is_scope_of(self, scope: VmScope, name: str, uuid: str) -> bool:
        return False

    def id_in_scope(self, scope: VmScope) -> str:
        return ""

    def disowns(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        return False

    def backup_files(self, run_dirs: RunDirs, name: str, uuid: str) -> frozenset[str]:
        return frozenset()

    def believes_running(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        return False

    def name_of(self, run_dirs: RunDirs, uuid: str) -> str:
        return ""

    def helper_pids(self, run_dirs: RunDirs, uuid: str) -> list[tuple[int, Kind]]:
        return []

    def is_helper_of(self, line: CommandLine, kind: Kind, uuid: str) -> bool:
        return False

    def names_vm(self, served: Served, name: str, uuid: str) -> bool:
        return Libvirt().names_vm(served, name, uuid)

    def starter_of(self, hook: int) -> int:
        return 0

    def start_command(self, uuid: str) -> list[str]:
        return []

    def clean_up_command(self, uuid: str) -> list[str]:
        return []

    def set_clock_command(self, uuid: str) -> list[str]:
        return []


#: by name, in the order in which they are asked whose a QEMU is; the last one takes what is left
TABLE: dict[str, Hypervisor] = {known.name: known for known in (Libvirt(), Proxmox(), Bare())}


def by_name(name: str) -> Hypervisor:
    """Return a hypervisor; one that this version does not know is nobody's."""
    return TABLE.get(name, TABLE[BARE])


def manager_of(run_dirs: RunDirs, line: CommandLine) -> Hypervisor:
    """Return the hypervisor that vouches for a QEMU, whatever the QEMU says of itself; else nobody (Bare)."""
    about = identity(line.arguments)
    for known in TABLE.values():
        uuid = known.id_of(about)
        if not known.has_hook or not uuid or not known.is_qemu_of(run_dirs, line.arguments, uuid):
            continue
        named = candidate(run_dirs, known.name, about.name, uuid)
        if named == line.pid and not known.disowns(run_dirs, about.name, uuid):
            return known
        found = standing.of(line.pid) if not named else None
        if found is not None and found.scope is not None and known.id_in_scope(found.scope) == uuid:
            return known
    return TABLE[BARE]


def may_come_late(run_dirs: RunDirs, line: CommandLine) -> bool:
    """Return whether a QEMU's hypervisor may be about to vouch for it: the pid file comes after the disks are open."""
    about = identity(line.arguments)
    late = (known for known in TABLE.values() if known.pid_file_comes_late and known.id_of(about))
    return any(known.is_qemu_of(run_dirs, line.arguments, known.id_of(about)) for known in late)


def candidate(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str) -> int:
    """Return the process that a VM's pid file was written for, else 0. Nothing in it can hang.

    Between fork and exec that is a child of the hypervisor's, whose arguments do not name the VM yet.
    """
    known = by_name(hypervisor)
    path = known.pid_file(run_dirs, name, uuid)
    written = pid_file.read(path) if path else None
    found = pid_file.named_by(written) if written is not None else None
    if found is None or (found.scope is not None and not known.is_scope_of(found.scope, name, uuid)):
        return 0
    return found.pid


def why_not_believed(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str) -> str:
    """Return, in words, why a VM's pid file proves nothing; empty if it does, or if there is none."""
    path = by_name(hypervisor).pid_file(run_dirs, name, uuid)
    return roots_file.why_not(path) if path else ""


def why_nobodys(run_dirs: RunDirs, line: CommandLine, found: Standing) -> str:
    """Return why a QEMU is taken for nobody's, although it may well be meant for a VM's; else nothing.

    One of root's that claims to be no hypervisor's is nobody's by right.
    """
    if manager_of(run_dirs, line).has_hook:
        return ""
    about = identity(line.arguments)
    for known in TABLE.values():
        uuid = known.id_of(about)
        if known.has_hook and uuid and known.is_qemu_of(run_dirs, line.arguments, uuid):
            path = known.pid_file(run_dirs, about.name, uuid)
            if (path and os.path.lexists(path)) or not found.is_root:
                return _why_not_named(path, line.pid) or f"for {known.name} it is another VM's"
    return "" if found.is_root else f"it is of {found.owner}, and no hypervisor of this host names it"


def _why_not_named(path: str, pid: int) -> str:
    written = pid_file.read(path)
    if written is None:
        return roots_file.why_not(path) or f"there is no pid file {path} that names it"
    if written.pid != pid:
        return f"{path} names pid {written.pid}"
    return f"it began after {path} was written" if pid_file.named_by(written) is None else ""


def qemu_pid(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str, read: Callable[[int], list[str]]) -> int | None:
    """Return the pid of a VM's QEMU; None if there is none. ``read`` gets a process's arguments, and may hang."""
    pid = candidate(run_dirs, hypervisor, name, uuid)
    return pid if pid and by_name(hypervisor).is_qemu_of(run_dirs, read(pid), uuid) else None
