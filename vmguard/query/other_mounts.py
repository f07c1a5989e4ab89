"""Which writable files of a VM lie on mounts where no lock is proven to reach other hosts. No call touches a share.

The daemon's answers name the files that it has locked. What the VM's processes have open beyond those (on SMB nothing
is locked) is read from /proc by who may, as it is now; others are told what the daemon saw when it last looked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vmguard.adapters.linux import configured_mounts, mounts, proc
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.query.answers import FileAnswer, VmAnswer

#: its files are its guest's, shared by nature
_VIRTIOFSD = "virtiofsd"


@dataclass(frozen=True)
class OnOtherMount:
    """A writable file on a mount of the kind OTHER, and why that does not count as guarded."""

    path: str
    why: str
    #: whether the daemon guards it, for what that is worth
    is_locked: bool


def why_of_path(path: str, table: Iterable[mounts.Mount]) -> str:
    """Return why a path without links counts as unguarded, empty if it lies on NFSv4 or on this host's own."""
    known = list(table)
    return _why(mounts.mount_of_path(path, known), known)


def why_bare(path: str, table: Iterable[mounts.Mount]) -> str:
    """Return why a path without links is not what it should be: a share is to be mounted over it, and is not."""
    known, shares = list(table), configured_mounts.shares()
    configured_mounts.resolve_points(shares, known)
    share = configured_mounts.absent_below(path, shares, known)
    if share is None:
        return ""
    return f"it lies on the bare folder {share.point}, where {share.source} is not mounted ({share.file})"


def of_vm(vm: VmAnswer, is_alive: bool = True) -> list[OnOtherMount]:
    """Return the VM's writable files on such mounts. ``is_alive``: its processes are known to be the VM's still."""
    try:
        table = list(mounts.mounts())
    except OSError:
        return []
    found = []
    for file in vm.files:
        why = _why(_mount_of(file, table), table) if file.mode == EXCLUSIVE else ""
        if why:
            found.append(OnOtherMount(file.path, why, True))
    if is_alive:
        found += [OnOtherMount(item.path, item.why, False) for item in vm.other_mounts if not may_look()]
        known = {(_device(file), file.inode) for file in vm.files}
        for process in vm.processes:
            if _VIRTIOFSD not in process.name:
                found += _open_in(process.pid, known)
    return list({item.path: item for item in reversed(found)}.values())[::-1]


def may_look() -> bool:
    """Return whether we see what processes of other users have open: as root, and as nobody else."""
    return os.geteuid() == 0


def _open_in(pid: int, known: set[tuple[int, int]]) -> Iterator[OnOtherMount]:
    try:
        table = list(mounts.mounts(pid))
    except OSError:
        return
    by_device = {mount.device: mount for mount in table}
    for user in proc.open_files(pid):
        if user.info.writable and not user.info.appends and user.key not in known:
            why = _why(by_device.get(user.key[0]), table)
            if why:
                yield OnOtherMount(user.path, why, False)


def _mount_of(file: FileAnswer, table: list[mounts.Mount]) -> mounts.Mount | None:
    """Return a file's mount by its device, or by its path: btrfs gives each subvolume a device of its own."""
    by_device = {mount.device: mount for mount in table}
    return by_device.get(_device(file)) or mounts.mount_of_path(str(file.json.get("real") or file.path), table)


def _device(file: FileAnswer) -> int:
    device = file.json.get("device")
    return device if isinstance(device, int) else 0


def _why(mount: mounts.Mount | None, table: list[mounts.Mount]) -> str:
    return "" if mount is None or mounts.kind_of(mount, table) != mounts.OTHER else mounts.why_other(mount)
