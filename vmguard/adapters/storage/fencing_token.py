"""The owner record's newest epoch, read as a fencing token: who claimed a disk last, as its server has it.

A read may hang with its storage: only in a thread or process that may. The record is opened O_DIRECT, so that the
answer is the server's and not the page cache's (owner_record.py).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from vmguard.adapters.storage import owner_record
from vmguard.core.locks.plan import printable
from vmguard.core.watchdog.events import Token

#: errors that stay: somebody has removed the record, its folder, or our right to read it
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO)


@dataclass(frozen=True)
class OwnRecord:
    """Where a disk's owner record is, and what our own claim wrote into it."""

    #: the disk's real path
    disk: str
    #: name of the records' folder beside it
    folder: str
    inode: int
    boot: str
    uuid: str
    epoch: int


def read_token(own: OwnRecord) -> Token:
    """Return the newest claim in a disk's owner record. Raises nothing: what goes wrong is part of the answer."""
    try:
        newest = owner_record.read_owner(own.disk, own.folder, own.inode)
    except OSError as problem:
        if problem.errno in _GONE:
            return Token()
        return Token(problem=errno.errorcode.get(problem.errno or 0, str(problem.errno)))
    if newest is None:
        return Token()
    if (newest.boot, newest.uuid) == (own.boot, own.uuid):
        return Token(own.epoch)  # also where this host wrote twice for one claim
    vm, host = printable(newest.vm), printable(newest.host)
    return Token(newest.epoch, f"{host or 'an unnamed host'} for VM '{vm}' at {printable(newest.claimed)}")
