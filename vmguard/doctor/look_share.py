"""Looks through a share: owner records of all hosts, and images that are written to without a lock. May hang."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from vmguard.adapters.linux import ofd, proc
from vmguard.core.locks.owner_record import SLOT_BYTES, parse_slot
from vmguard.core.locks.ranges import WHOLE

_DEPTH = 4
_MOST_FILES = 5000
_SLOTS = 8
#: seconds; a file that was written to longer ago is not worth watching
_JUST_NOW = 30.0
#: seconds for which such a file is watched; the whole look has five
_WATCHED = 1.5
_IMAGES = (".qcow2", ".raw", ".img", ".vmdk", ".qed", ".vdi")


def look(point: str, folder_name: str) -> dict[str, Any]:
    """The facts of ShareFacts; as much as a share of ordinary size has."""
    records: list[dict[str, str]] = []
    fresh: list[str] = []
    for count, (folder, name) in enumerate(_files(point)):
        if count > _MOST_FILES:
            break
        path = os.path.join(folder, name)
        if folder_name and os.path.basename(folder) == folder_name:
            records += _claims(path) if name.endswith(".owner") else []
        elif name.endswith(_IMAGES) and _is_fresh(path):
            fresh.append(path)
    unlocked = [path for path in fresh if _nobodys(path)]
    return {"records": records, "unlocked_writes": _change_meanwhile(unlocked)}


def _files(point: str) -> Iterator[tuple[str, str]]:
    device = os.stat(point).st_dev
    for folder, below, names in os.walk(point):
        deep = folder[len(point.rstrip("/")) :].count("/") >= _DEPTH
        below[:] = [] if deep else [name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device]
        yield from ((folder, name) for name in names)


def _claims(path: str) -> list[dict[str, str]]:
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size // SLOT_BYTES - _SLOTS) * SLOT_BYTES)
            data = stream.read(_SLOTS * SLOT_BYTES)
    except OSError:
        return []
    owners = [parse_slot(data[at : at + SLOT_BYTES]) for at in range(0, len(data), SLOT_BYTES)]
    return [
        {"host": owner.host, "machine": owner.machine, "boot": owner.boot, "claimed": owner.claimed}
        for owner in owners
        if owner is not None
    ]


def _is_fresh(path: str) -> bool:
    """By the server's clock as well as ours: they may differ, so only a small distance counts in either direction."""
    try:
        return abs(time.time() - os.lstat(path).st_mtime) < _JUST_NOW
    except OSError:
        return False


def _change_meanwhile(paths: list[str]) -> list[str]:
    """Those that are written to at this moment: an image that was made or copied a while ago is nobody's offence."""
    before = {path: _stamp(path) for path in paths}
    if paths:
        time.sleep(_WATCHED)
    return [path for path in paths if _stamp(path) != before[path]]


def _stamp(path: str) -> tuple[int, int]:
    """As the server has it now: on NFS only an open asks it again (close-to-open)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0, 0
    try:
        status = os.fstat(fd)
        return status.st_mtime_ns, status.st_size
    finally:
        os.close(fd)


def _nobodys(path: str) -> bool:
    """Nobody has it locked, not one byte of it, and no process of this host has it open for writing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if ofd.conflict(fd, ofd.WRITE, WHOLE) is not None:
            return False
        return not any(user.info.writable for user in proc.users_of({proc.own_key(fd)}))
    finally:
        os.close(fd)
