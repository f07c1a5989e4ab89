"""The newest epoch in a disk's owner record, as its server has it: the fencing token. May hang with its storage.

A record is a row of slots of one size, one for each claim (core/locks/owner_record.py), so its size tells the newest
epoch. Asking for the size takes no OPEN: in a grace period a server refuses every new one, and there the answer is
needed most. Whoever reclaimed a lock that is not his must let go of it before the rightful owner comes.
"""

from __future__ import annotations

import errno
import os
import stat

from vmguard.adapters.linux.statx import fresh_size
from vmguard.adapters.storage.path_walk import find_near
from vmguard.core.locks.owner_record import file_name, next_epoch
from vmguard.core.watchdog.events import Token

#: errors that stay: somebody has removed the record, its folder, or our right to look at it
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP)


def record_path(disk: str, folder: str, inode: int) -> str:
    """Return where a disk's owner record is; ``folder`` is the name of the records' folder beside it."""
    return os.path.join(os.path.dirname(disk), folder, file_name(inode))


def read_token(record: str) -> Token:
    """Return the newest epoch of an owner record. Raises nothing: what goes wrong is part of the answer."""
    try:
        found = find_near(record)
        try:
            # What is no file, has a second name, or is a link's, is nothing that a claim has written.
            is_record = stat.S_ISREG(found.mode) and found.status.st_nlink == 1 and not found.links
            size = fresh_size(found.fd) if is_record else 0
        finally:
            found.close()
    except OSError as problem:
        if problem.errno in _GONE:
            return Token()
        return Token(problem=errno.errorcode.get(problem.errno or 0, str(problem.errno)))
    return Token(next_epoch(size) - 1) if size else Token()
