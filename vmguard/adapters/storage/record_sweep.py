"""Remove the owner records of deleted disks from one folder. May hang; runs behind a release, in a process of its own.

A record goes only if its last claim was released and no file of the folder has its inode number. So the record of a
file that is deleted, but still in use, stays: its claim stands. A disk that was moved to another folder gets a new
record there with its next claim. The directory is opened anew, so that an NFS client asks for its present contents.
"""

from __future__ import annotations

import os

from vmguard.adapters.storage import owner_record

#: a folder with more entries is left alone
_MAX_ENTRIES = 5000
#: records removed at one release
_MAX_REMOVED = 20
_SUFFIX = ".owner"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def sweep(disk: str, folder_name: str, inode: int) -> int:
    """Remove records of deleted disks beside a disk; return how many. ``inode`` is the disk's. Raises OSError."""
    folder = os.path.dirname(disk)
    here = _inodes(folder)
    # Some file systems list other numbers than stat tells (overlayfs): then nothing can be concluded.
    if here.get(os.path.basename(disk)) != inode:
        return 0
    records = os.open(os.path.join(folder, folder_name), _FOLDER)
    try:
        return _remove(records, disk, folder_name, set(here.values()))
    finally:
        os.close(records)


def _remove(records: int, disk: str, folder_name: str, present: set[int]) -> int:
    """Remove what nobody needs from the open folder of the records beside a disk."""
    removed = 0
    for name in sorted(_entries(records)):
        number = name.removesuffix(_SUFFIX)
        if name == number or not number.isdigit() or int(number) in present:
            continue
        last = owner_record.read_owner(disk, folder_name, int(number))
        if last is None or not last.released or int(number) in _inodes(os.path.dirname(disk)).values():
            continue
        os.unlink(name, dir_fd=records)
        removed += 1
        if removed == _MAX_REMOVED:
            break
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
