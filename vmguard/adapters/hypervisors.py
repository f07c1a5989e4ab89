"""The table of hypervisors, and the one that is none: a VM that nobody we know manages."""

from __future__ import annotations

from collections.abc import Callable

from vmguard.adapters.hypervisor import Hypervisor, RunDirs
from vmguard.adapters.libvirt.hypervisor import Libvirt
from vmguard.adapters.linux import proc
from vmguard.adapters.linux.proc import CommandLine
from vmguard.adapters.proxmox.hypervisor import Proxmox
from vmguard.core import BARE
from vmguard.core.sources.process_arguments import Identity, Kind, Likelihood, Served, likelihood


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
    leftover_wait_s = 2.0

    def is_id(self, uuid: str) -> bool:
        return False  # nobody may claim in its name

    def id_of(self, about: Identity) -> str:
        return about.uuid

    def pid_in_file(self, run_dirs: RunDirs, name: str, uuid: str) -> int:
        return 0

    def is_qemu_of(self, run_dirs: RunDirs, arguments: list[str], uuid: str) -> bool:
        return True  # there is nothing to know it by but the process itself

    def manages(self, run_dirs: RunDirs, line: CommandLine) -> bool:
        return True

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
    """Return whoever has started a QEMU."""
    return next(known for known in TABLE.values() if known.manages(run_dirs, line))


def candidate(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str) -> int:
    """Return the pid in a VM's pid file if that process may be its QEMU, else 0. Nothing in it can hang.

    Between fork and exec the pid is a child of the hypervisor's, and an old pid file may name any process: only its
    arguments prove that it is the QEMU of this VM.
    """
    pid = by_name(hypervisor).pid_in_file(run_dirs, name, uuid)
    return pid if pid > 1 and likelihood(proc.program(pid), proc.name(pid)) is not Likelihood.NONE else 0


def qemu_pid(run_dirs: RunDirs, hypervisor: str, name: str, uuid: str, read: Callable[[int], list[str]]) -> int | None:
    """Return the pid of a VM's QEMU; None if there is none. ``read`` gets a process's arguments, and may hang."""
    pid = candidate(run_dirs, hypervisor, name, uuid)
    return pid if pid and by_name(hypervisor).is_qemu_of(run_dirs, read(pid), uuid) else None
