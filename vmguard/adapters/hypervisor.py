"""The port to a hypervisor: all that differs between those that manage a VM. The table of them is in hypervisors.py.

Nothing here asks the hypervisor itself, and nothing may hang: the daemon's loop calls all of it. What a process was
started with is read elsewhere (may_block.py) and handed in. Arguments only ever narrow: any user can start a process
with any of them, so what makes a process a VM's is what only root can have made (hypervisors.py).
"""

from __future__ import annotations

from typing import Protocol

from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.sources.process_arguments import Identity, Kind, Served
from vmguard.core.sources.vm_scope import VmScope


class RunDirs:
    """Where each hypervisor keeps the pid files of its QEMU processes."""

    __slots__ = ("libvirt", "proxmox")

    def __init__(self, libvirt: str, proxmox: str) -> None:
        self.libvirt = libvirt
        self.proxmox = proxmox


class Hypervisor(Protocol):
    """One hypervisor. ``uuid`` is the id by which it knows a VM: a uuid, or Proxmox's VMID."""

    name: str
    #: it calls a hook of ours at each start
    has_hook: bool
    #: the hook is a setting of each VM, not of the host
    hook_per_vm: bool
    #: its hook may wait for a lock for as long as that takes
    hook_may_wait: bool
    #: it begins no second start of a VM while one is under way: a claim without a QEMU is left over from an earlier one
    serialises_starts: bool
    #: its QEMU locks bytes of each image
    takes_image_locks: bool
    #: its QEMU is root, and opens files as root
    runs_qemu_as_root: bool
    #: what it says of a VM's end may be about an earlier run, and it does not wait for an answer
    tells_ends_late: bool
    #: it may miss the end of a VM, and has to be told then
    needs_clean_up: bool
    #: it tells of events that may have opened a VM's files
    sends_events: bool
    #: it starts QEMU below the process that orders the start
    starts_qemu_itself: bool
    #: its QEMU writes the pid file itself, when it has its disks open already
    pid_file_comes_late: bool
    #: how long a start may wait for an earlier run of the same VM to be released
    leftover_wait_s: float

    def is_id(self, uuid: str) -> bool:
        """Return whether a VM can have this id."""

    def id_of(self, about: Identity) -> str:
        """Return the id of a VM by its QEMU's arguments; empty if they do not tell."""

    def pid_file(self, run_dirs: RunDirs, name: str, uuid: str) -> str:
        """Return the path of a VM's pid file; empty if it has none."""

    def is_qemu_of(self, run_dirs: RunDirs, arguments: list[str], uuid: str) -> bool:
        """Return whether these are the arguments of a VM's QEMU, whatever its program is called."""

    def is_scope_of(self, scope: VmScope, name: str, uuid: str) -> bool:
        """Return whether a VM's control group may be that of this VM."""

    def id_in_scope(self, scope: VmScope) -> str:
        """Return the id of the VM whose control group it certainly is; empty if that does not tell."""

    def disowns(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        """Return whether its own files say that the VM of that name has another id."""

    def believes_running(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        """Return whether it has not noticed the end of a VM yet, by its own files."""

    def backup_files(self, run_dirs: RunDirs, name: str, uuid: str) -> frozenset[str]:
        """Return the files that a backup of a VM writes while QEMU has them open, by its own files."""

    def name_of(self, run_dirs: RunDirs, uuid: str) -> str:
        """Return the name of a VM that runs, by its own files; empty if they do not tell."""

    def helper_pids(self, run_dirs: RunDirs, uuid: str) -> list[tuple[int, Kind]]:
        """Return the processes that the pid files of a VM's helpers were written for, and what each should be."""

    def is_helper_of(self, line: CommandLine, kind: Kind, uuid: str) -> bool:
        """Return whether a process from such a file is that helper of that VM."""

    def names_vm(self, served: Served, name: str, uuid: str) -> bool:
        """Return whether a helper's arguments name a VM."""

    def starter_of(self, hook: int) -> int:
        """Return the process that lives for exactly as long as the start whose hook this is; 0 if none does."""

    def start_command(self, uuid: str) -> list[str]:
        """Return the command that starts a VM; empty if there is none."""

    def clean_up_command(self, uuid: str) -> list[str]:
        """Return the command that does what it does at the end of a VM; empty if there is none."""

    def set_clock_command(self, uuid: str) -> list[str]:
        """Return the command that sets a guest's clock to the host's; empty if there is none."""
