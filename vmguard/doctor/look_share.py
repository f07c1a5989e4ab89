"""Looks through a share: owner records of all hosts, and images written to without a lock. May hang."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from vmguard.adapters.linux import ofd, proc
from vmguard.adapters.storage.files import open_undelegated
from vmguard.core.locks.owner_record import SLOT_BYTES, parse_slot
from vmguard.core.locks.ranges import WHOLE
from vmguard.doctor.facts import RecordFacts, ShareFacts

_MAX_DEPTH = 4
_MAX_FILES = 5000
#: how many of a record's last claims are read
_MAX_SLOTS = 8
#: a file last written to longer ago is not watched
_RECENT_S = 30.0
#: how long a recent file is watched; the whole look has 5 s
_WATCH_S = 1.5
_IMAGES = (".qcow2", ".raw", ".img", ".vmdk", ".qed", ".vdi")


def look(point: str, folder_name: str) -> ShareFacts:
    """Look through a share, up to a depth and a number of files that suffice for ordinary ones."""
    records: list[RecordFacts] = []
    fresh: list[str] = []
    for count, (folder, name) in enumerate(_files(point)):
        if count > _MAX_FILES:
            break
        path = os.path.join(folder, name)
        if folder_name and os.path.basename(folder) == folder_name:
            records += _claims(path) if name.endswith(".owner") else []
        elif name.endswith(_IMAGES) and _is_fresh(path):
            fresh.append(path)
    unlocked = [path for path in fresh if _is_unlocked(path)]
    return ShareFacts(tuple(records), tuple(_change_meanwhile(unlocked)))


def _files(point: str) -> Iterator[tuple[str, str]]:
    device = os.stat(point).st_dev
    for folder, below, names in os.walk(point):
        deep = folder[len(point.rstrip("/")) :].count("/") >= _MAX_DEPTH
        below[:] = [] if deep else [name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device]
        yield from ((folder, name) for name in names)


def _claims(path: str) -> list[RecordFacts]:
    try:
        with os.fdopen(open_undelegated(path), "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size // SLOT_BYTES - _MAX_SLOTS) * SLOT_BYTES)
            data = stream.read(_MAX_SLOTS * SLOT_BYTES)
    except OSError:
        return []
    owners = [parse_slot(data[at : at + SLOT_BYTES]) for at in range(0, len(data), SLOT_BYTES)]
    return [RecordFacts(owner.host, owner.machine, owner.boot, owner.claimed) for owner in owners if owner is not None]


def _is_fresh(path: str) -> bool:
    """Return whether a file was written to recently. The server's clock may be ahead of ours or behind it."""
    try:
        return abs(time.time() - os.lstat(path).st_mtime) < _RECENT_S
    except OSError:
        return False


def _change_meanwhile(paths: list[str]) -> list[str]:
    """Return the files that are being written to now: an image that was just copied is no finding."""
    before = {path: _stamp(path) for path in paths}
    if paths:
        time.sleep(_WATCH_S)
    return [path for path in paths if _stamp(path) != before[path]]


def _stamp(path: str) -> tuple[int, int]:
    """Return mtime (ns) and size as the server has them now: NFS asks again only at an open (close-to-open)."""
    try:
        fd = open_undelegated(path, os.O_NOFOLLOW)
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
        fd = open_undelegated(path, os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if ofd.conflict(fd, ofd.WRITE, WHOLE) is not None:
            return False
        return not any(user.info.writable for user in proc.users_of({proc.own_key(fd)}))
    finally:
        os.close(fd)
