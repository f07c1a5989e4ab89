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


def sweep(disk: str, folder_name: str, inode: int) -> int:
    """Remove records of deleted disks beside a disk; return how many. ``inode`` is the disk's. Raises OSError."""
    folder = os.path.dirname(disk)
    records = os.path.join(folder, folder_name)
    here = _inodes(folder)
    # Some file systems list other numbers than stat tells (overlayfs): then nothing can be concluded.
    if here.get(os.path.basename(disk)) != inode:
        return 0
    present, removed = set(here.values()), 0
    for name in sorted(_inodes(records)):
        number = name.removesuffix(_SUFFIX)
        if name == number or not number.isdigit() or int(number) in present:
            continue
        last = owner_record.read_owner(disk, folder_name, int(number))
        if last is None or not last.released or int(number) in _inodes(folder).values():
            continue
        os.unlink(os.path.join(records, name))
        removed += 1
        if removed == _MAX_REMOVED:
            break
    return removed


def _inodes(folder: str) -> dict[str, int]:
    """Return the inode numbers of a folder's entries by name; none when there are too many."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found: dict[str, int] = {}
        with os.scandir(fd) as entries:
            for entry in entries:
                found[entry.name] = entry.inode()
                if len(found) > _MAX_ENTRIES:
                    return {}
        return found
    finally:
        os.close(fd)
