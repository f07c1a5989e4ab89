"""Proxmox VE, as the port sees it."""

from __future__ import annotations

from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux.proc import CommandLine
from vmguard.adapters.proxmox import processes
from vmguard.core import PROXMOX
from vmguard.core.sources.process_arguments import Identity, Kind, Served
from vmguard.core.sources.pve_config import is_vmid
from vmguard.core.sources.vm_scope import VmScope


class Proxmox:
    """Proxmox VE on this node, by its files in /run. See Hypervisor for what each member means."""

    name = PROXMOX
    has_hook = True
    hook_per_vm = True
    hook_may_wait = True
    serialises_starts = True
    takes_image_locks = False
    runs_qemu_as_root = True
    #: a post-stop may come while QEMU is being started again
    tells_ends_late = True
    #: qmeventd does not run again what it has missed
    needs_clean_up = True
    sends_events = False
    starts_qemu_itself = True
    pid_file_comes_late = True
    #: HA starts a VM again a few times only, and soon: a hook that may wait gets the time for the proof
    leftover_wait_s = 50.0

    def is_id(self, uuid: str) -> bool:
        return is_vmid(uuid)

    def id_of(self, about: Identity) -> str:
        return about.vmid

    def pid_file(self, run_dirs: RunDirs, name: str, uuid: str) -> str:
        return processes.path_of(run_dirs.proxmox, uuid)

    def is_qemu_of(self, run_dirs: RunDirs, arguments: list[str], uuid: str) -> bool:
        return processes.is_qemu_of(arguments, uuid, run_dirs.proxmox)

    def is_scope_of(self, scope: VmScope, name: str, uuid: str) -> bool:
        return scope.vmid == uuid

    def id_in_scope(self, scope: VmScope) -> str:
        return scope.vmid

    def disowns(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        return False  # its pid files are named by the id

    def backup_files(self, run_dirs: RunDirs, name: str, uuid: str) -> frozenset[str]:
        return frozenset()  # vzdump reads through a pipe

    def believes_running(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        return processes.believes_running(run_dirs.proxmox, uuid)

    def name_of(self, run_dirs: RunDirs, uuid: str) -> str:
        return ""

    def helper_pids(self, run_dirs: RunDirs, uuid: str) -> list[tuple[int, Kind]]:
        return processes.helper_pids(run_dirs.proxmox, uuid)

    def is_helper_of(self, line: CommandLine, kind: Kind, uuid: str) -> bool:
        return processes.is_helper_of(line, kind, uuid)

    def names_vm(self, served: Served, name: str, uuid: str) -> bool:
        return uuid in served.vmids

    def starter_of(self, hook: int) -> int:
        return processes.starter_of(hook)

    def start_command(self, uuid: str) -> list[str]:
        return ["qm", "start", uuid] if is_vmid(uuid) else []

    def clean_up_command(self, uuid: str) -> list[str]:
        # What qmeventd runs at the end of QEMU's socket: not a clean end, not asked for by the guest (qmeventd.c,
        # CLI/qm.pm). It does nothing when the VM is another node's by now, and nothing twice.
        return ["qm", "cleanup", uuid, "0", "0"] if is_vmid(uuid) else []

    def set_clock_command(self, uuid: str) -> list[str]:
        return []
