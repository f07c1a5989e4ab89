"""Remove what deleted disks have left beside them: owner records, lists. May hang; a process of its own runs it.

A record goes only if its last claim was released and no file of the folder has its inode number. So the record of a
file that is deleted, but still in use, stays: its claim stands. A disk that was moved to another folder gets a new
record there with its next claim. The directory is opened anew, so that an NFS client asks for its present contents.
What strangers put beside the records, and what another host removes meanwhile, is passed over.
"""

from __future__ import annotations

import contextlib
import os
import random
import re

from vmguard.adapters.storage import owner_record
from vmguard.core.locks.owner_record import file_name

#: a folder with more entries is left alone
_MAX_ENTRIES = 5000
#: records removed at one release
_MAX_REMOVED = 20
#: lists looked at in one release, others each time: each costs a request, and every VM has one
_MAX_LISTS = 20
_SUFFIX = ".owner"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: a list, or one that a crash kept from taking the place of the one before it
_LIST = re.compile(rf".+{re.escape(owner_record.LIST)}(\.[0-9a-f]+)?")


def sweep(disk: str, folder_name: str, inode: int) -> int:
    """Remove records and lists of deleted disks beside a disk; return how many. ``inode`` is the disk's.

    Raises OSError.
    """
    folder = os.path.dirname(disk)
    here = _inodes(folder)
    # Some file systems list other numbers than stat tells (overlayfs): then nothing can be concluded.
    if here.get(os.path.basename(disk)) != inode:
        return 0
    records = os.open(os.path.join(folder, folder_name), _FOLDER)
    try:
        present = set(here.values())
        return _sweep_records(records, disk, folder_name, present) + _sweep_lists(records, present)
    finally:
        os.close(records)


def _sweep_records(records: int, disk: str, folder_name: str, present: set[int]) -> int:
    removed = 0
    for name in sorted(_entries(records)):
        number = name.removesuffix(_SUFFIX)
        if name == number or not (number.isascii() and number.isdigit()) or int(number) in present:
            continue
        try:
            last = owner_record.read_owner(disk, folder_name, int(number))
            if last is None or not last.released or int(number) in _inodes(os.path.dirname(disk)).values():
                continue
            os.unlink(name, dir_fd=records)
        except OSError:
            continue
        removed += 1
        if removed == _MAX_REMOVED:
            break
    return removed


def _sweep_lists(records: int, present: set[int]) -> int:
    names, removed = _entries(records), 0
    lists = [name for name in names if _LIST.fullmatch(name)]
    for name in random.sample(lists, min(len(lists), _MAX_LISTS)):
        with contextlib.suppress(OSError):
            listed = owner_record.read_list(name, records)
            if not any(inode in present or file_name(inode) in names for inode in listed):
                os.unlink(name, dir_fd=records)
                removed += 1
    return removed


def _inodes(folder: str) -> dict[str, int]:
    """Return the inode numbers of a folder's entries by name; none when there are too many."""
    fd = os.open(folder, _FOLDER)
    try:
        return _entries(fd)
    finally:
        os.close(fd)


def _entries(fd: int) -> dict[str, int]:
    found: dict[str, int] = {}
    with os.scandir(fd) as entries:
        for entry in entries:
            found[entry.name] = entry.inode()
            if len(found) > _MAX_ENTRIES:
                return {}
    return found
