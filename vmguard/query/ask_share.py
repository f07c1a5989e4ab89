"""Questions to the share: the lock and the owner record of one file, or all records that name a VM.

Any access to a share can hang, so each question runs in a child that is killed at its deadline. The child's answer
comes through a pipe as JSON; its shape is known to this module alone.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vmguard.adapters.linux import bounded_child, mounts, ofd, proc
from vmguard.adapters.storage import lock_holder, owner_record
from vmguard.adapters.storage.files import Opener
from vmguard.adapters.storage.replaced import why_replaced
from vmguard.core.locks.owner_record import TEXT_FIELDS, Owner
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import WHOLE
from vmguard.errors import StorageTimeout, VmguardError
from vmguard.query import other_mounts, server_cache
from vmguard.query.answers import LockOnShare, VmAnswer
from vmguard.query.places import Places

#: folders below a mount point that are searched for owner records
_SEARCH_DEPTH = 4
#: for what the daemon tells, too, only later
_AT_ONCE_S = 1.0


@dataclass(frozen=True)
class FoundRecord:
    """The last claim in an owner record, and the folder whose disk it belongs to."""

    owner: Owner
    folder: str


def lock_of(path: str, mode: str, places: Places) -> LockOnShare:
    """Ask who stands in the way of a file's lock.

    Raises StorageTimeout when the storage does not answer in time, VmguardError when the file cannot be opened.
    """
    ask = functools.partial(_ask, path, mode, places.record_folder, places.trusted_folders)
    kept = server_cache.of_path(path, places)
    try:
        answer = bounded_child.run(ask, places.timeout, f"asking for {path}")
    except StorageTimeout as silent:
        left = server_cache.grace_left(kept)
        if not left:
            raise
        hint = f"its server is in its grace period for {left:.0f} s more at most, by its own word: wait"
        raise StorageTimeout(silent.message, hint) from None
    return LockOnShare(
        conflict=bool(answer["conflict"]),
        owner=_owner(answer["owner"]),
        record_problem=str(answer["record_problem"]),
        local_users=tuple(map(str, answer["local_users"])),
        lease=kept.times.lease if kept is not None and kept.times.lease else answer["lease"],
        inode=int(answer["inode"]),
        other_mount=str(answer["other_mount"]),
        bare=str(answer["bare"]),
        doubt=str(answer["doubt"]),
        is_reader=bool(answer["is_reader"]),
        grace_left=server_cache.grace_left(kept),
    )


def records_of(wanted: str, places: Places) -> list[FoundRecord]:
    """Return all owner records below this host's NFS mounts whose last claim names a VM, by its name or uuid.

    Raises StorageTimeout when the storage does not answer in time.
    """
    search = functools.partial(_search, wanted, places.record_folder)
    found = bounded_child.run(search, places.timeout, "searching the owner records")
    records = ((_owner(item["owner"]), str(item["folder"])) for item in found)
    return [FoundRecord(owner, folder) for owner, folder in records if owner is not None]


def replaced_now(vms: Sequence[VmAnswer], places: Places) -> dict[str, str]:
    """Return why disks of VMs are not what their paths lead to now, by path. A storage that is slow says nothing."""
    asked = [
        _Asked(
            file.path, str(file.json.get("real") or file.path), file.inode, [file.inode for file in vm.files], vm.pid
        )
        for vm in vms
        for file in vm.files
        if file.mode == EXCLUSIVE
    ]
    if not asked:
        return {}
    seconds = min(_AT_ONCE_S, places.timeout)
    try:
        found = bounded_child.run(functools.partial(_replaced, asked), seconds, "looking at the disks' paths")
    except VmguardError:
        return {}
    return {str(path): str(why) for path, why in found.items()}


def with_replaced(vm: VmAnswer, replaced: Mapping[str, str]) -> VmAnswer:
    """Return a VM with what was just found about its disks."""
    if not any(file.path in replaced for file in vm.files):
        return vm
    files = (dataclasses.replace(file, replaced=file.replaced or replaced.get(file.path, "")) for file in vm.files)
    return dataclasses.replace(vm, files=tuple(files))


def _owner(value: Any) -> Owner | None:
    return Owner(value["epoch"], **{name: value[name] for name in TEXT_FIELDS}) if value else None


# -- in the child ---------------------------------------------------------------------------------------------------


def _ask(path: str, mode: str, folder: str, trusted: tuple[str, ...]) -> dict[str, object]:
    opened = Opener(writable=False, trusted=trusted).open(path, mode, path)
    try:
        kind = ofd.WRITE if mode == EXCLUSIVE else ofd.READ
        conflict = ofd.conflict(opened.fd, kind, WHOLE)
        found = lock_holder.describe(path, opened.fd, folder)
    finally:
        opened.close()
    real, table = opened.real, list(mounts.mounts())
    return {
        "conflict": conflict is not None,
        "owner": found.owner.as_json() if found.owner is not None else None,
        "record_problem": found.record_problem,
        "local_users": list(found.local_users),
        "lease": found.lease,
        "inode": opened.key[1],
        "other_mount": other_mounts.why_of_path(real, table),
        "bare": other_mounts.why_bare(real, table),
        "doubt": found.doubt,
        "is_reader": found.is_reader,
    }


def _search(wanted: str, folder_name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for mount in mounts.mounts():
        if not mount.is_nfs or not folder_name:
            continue
        for folder, below, names, fd in os.fwalk(mount.point):
            if folder[len(mount.point) :].count("/") >= _SEARCH_DEPTH:
                below.clear()
            if os.path.basename(folder) != folder_name:
                continue
            for name in sorted(names):
                owner = owner_record.last_claim(name, fd)
                if owner is not None and wanted in (owner.vm, owner.uuid):
                    found.append({"owner": owner.as_json(), "folder": os.path.dirname(folder)})
    return found


class _Asked(NamedTuple):
    """A disk, the inodes that its VM has open, and the pid of its QEMU; 0 if that is not known."""

    path: str
    real: str
    inode: int
    own: list[int]
    pid: int


def _replaced(asked: Sequence[_Asked]) -> dict[str, str]:
    found = {}
    for file in asked:
        try:
            why = why_replaced(file.real, file.inode, file.own, _link(file))
        except OSError:
            continue
        if why:
            found[file.path] = why
    return found


def _link(file: _Asked) -> str:
    """Return the link of a descriptor through which QEMU has the file open; empty if there is none."""
    users = proc.open_files(file.pid, {file.inode}) if file.pid else ()
    return next((f"/proc/{file.pid}/fd/{user.fd}" for user in users), "")
