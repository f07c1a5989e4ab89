"""libvirt, as the port sees it."""

from __future__ import annotations

import re

from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.libvirt import host
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core import LIBVIRT
from vmguard.core.sources.process_arguments import Identity, Kind, Served, short_name
from vmguard.core.sources.vm_scope import VmScope

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VIRSH = ("virsh", "-q", "-c", "qemu:///system")


class Libvirt:
    """libvirt on this host, by its files in /run. See Hypervisor for what each member means."""

    name = LIBVIRT
    has_hook = True
    hook_per_vm = False
    hook_may_wait = False
    serialises_starts = False
    takes_image_locks = True
    runs_qemu_as_root = False
    tells_ends_late = False
    needs_clean_up = False
    sends_events = True
    starts_qemu_itself = False  # virsh only asks libvirtd
    pid_file_comes_late = False
    leftover_wait_s = 2.0

    def is_id(self, uuid: str) -> bool:
        return _UUID.fullmatch(uuid) is not None

    def id_of(self, about: Identity) -> str:
        return about.uuid

    def pid_file(self, run_dirs: RunDirs, name: str, uuid: str) -> str:
        return "" if "/" in name else host.pid_file(run_dirs.libvirt, name)

    def is_qemu_of(self, run_dirs: RunDirs, arguments: list[str], uuid: str) -> bool:
        return host.is_qemu_of(arguments, uuid)

    def is_scope_of(self, scope: VmScope, name: str, uuid: str) -> bool:
        return scope.is_machine_of(name)

    def id_in_scope(self, scope: VmScope) -> str:
        return ""  # it has the VM's name, and not the whole of that

    def disowns(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        return host.disowns(run_dirs.libvirt, name, uuid)

    def backup_files(self, run_dirs: RunDirs, name: str, uuid: str) -> frozenset[str]:
        return host.backup_files(run_dirs.libvirt, name, uuid)

    def believes_running(self, run_dirs: RunDirs, name: str, uuid: str) -> bool:
        return host.believes_running(run_dirs.libvirt, name)

    def name_of(self, run_dirs: RunDirs, uuid: str) -> str:
        return host.name_of(run_dirs.libvirt, uuid)

    def helper_pids(self, run_dirs: RunDirs, uuid: str) -> list[tuple[int, Kind]]:
        return []  # they are found by what they have open

    def is_helper_of(self, line: CommandLine, kind: Kind, uuid: str) -> bool:
        return False

    def names_vm(self, served: Served, name: str, uuid: str) -> bool:
        return uuid in served.uuids or short_name(name) in served.short_names

    def starter_of(self, hook: int) -> int:
        return 0  # libvirt tells of the end of a start that failed

    def start_command(self, uuid: str) -> list[str]:
        return [*_VIRSH, "start", uuid]

    def clean_up_command(self, uuid: str) -> list[str]:
        return []  # libvirtd sees the end of each QEMU by itself

    def set_clock_command(self, uuid: str) -> list[str]:
        return [*_VIRSH, "domtime", uuid, "--now"]
