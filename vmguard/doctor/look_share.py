"""Looks through a share: owner records of all hosts, images written to without a lock, and modes. May hang."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from vmguard.adapters.linux import ofd, proc
from vmguard.adapters.linux.regular_file import read_regular
from vmguard.adapters.storage import owner_record
from vmguard.core.locks.ranges import WHOLE
from vmguard.doctor.facts import RecordFacts, ShareFacts
from vmguard.doctor.look_modes import Modes

_MAX_DEPTH = 4
_MAX_FILES = 5000
#: how many of a record's last claims are read
_MAX_SLOTS = 8
#: a file last written to longer ago is not watched
_RECENT_S = 30.0
#: how long a recent file is watched; the whole look has 5 s
_WATCH_S = 1.5
_IMAGES = (".qcow2", ".raw", ".img", ".vmdk", ".qed", ".vdi")


def look(point: str, folder_name: str, qemu_user: str = "") -> ShareFacts:
    """Look through a share, up to a depth and a number of files that suffice for ordinary ones."""
    modes = Modes(point, qemu_user)
    records: list[RecordFacts] = []
    fresh: list[str] = []
    for count, (folder, name) in enumerate(_files(point)):
        if count > _MAX_FILES:
            break
        path = os.path.join(folder, name)
        if folder_name and os.path.basename(folder) == folder_name:
            if name.endswith(".owner") and (status := _status(path)) is not None:
                records += _claims(path)
                modes.add_record(path, status)
        elif name.endswith(_IMAGES) and (status := _status(path)) is not None:
            modes.add(path, status)
            fresh += [path] if _is_fresh(status) else []
    unlocked = [path for path in fresh if _is_unlocked(path)]
    free_space, free_inodes = _free(point)
    return ShareFacts(tuple(records), tuple(_change_meanwhile(unlocked)), modes.facts(), free_space, free_inodes)


def _free(point: str) -> tuple[float, float]:
    """Return the free parts of a share's space and of its inodes, for whoever is not root on the server."""
    told = os.statvfs(point)
    return (
        told.f_bavail / told.f_blocks if told.f_blocks else 1.0,
        told.f_favail / told.f_files if told.f_files else 1.0,
    )


def _files(point: str) -> Iterator[tuple[str, str]]:
    device = os.stat(point).st_dev
    for folder, below, names in os.walk(point):
        deep = folder[len(point.rstrip("/")) :].count("/") >= _MAX_DEPTH
        below[:] = [] if deep else [name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device]
        yield from ((folder, name) for name in names)


def _claims(path: str) -> list[RecordFacts]:
    owners = owner_record.last_slots(path, _MAX_SLOTS)
    return [RecordFacts(owner.host, owner.machine, owner.boot, owner.claimed) for owner in owners]


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_fresh(status: os.stat_result) -> bool:
    """Return whether a file was written to recently. The server's clock may be ahead of ours or behind it."""
    return abs(time.time() - status.st_mtime) < _RECENT_S


def _change_meanwhile(paths: list[str]) -> list[str]:
    """Return the files that are being written to now: an image that was just copied is no finding."""
    before = {path: _stamp(path) for path in paths}
    if paths:
        time.sleep(_WATCH_S)
    return [path for path in paths if _stamp(path) != before[path]]


def _stamp(path: str) -> tuple[int, int]:
    """Return mtime (ns) and size as the server has them now: NFS asks again only at an open (close-to-open)."""
    try:
        fd = read_regular(path)
    except OSError:
        return 0, 0
    try:
        status = os.fstat(fd)
        return status.st_mtime_ns, status.st_size
    finally:
        os.close(fd)


def _is_unlocked(path: str) -> bool:
    """Return whether no byte of a file is locked and no process of this host has it open for writing."""
    try:
        fd = read_regular(path)
    except OSError:
        return False
    try:
        if ofd.conflict(fd, ofd.WRITE, WHOLE) is not None:
            return False
        return not any(user.info.writable for user in proc.users_of({proc.own_key(fd)}))
    finally:
        os.close(fd)
