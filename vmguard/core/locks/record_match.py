"""Whether an owner record is about the file that it lies beside. Pure.

A record is named after an inode number, and numbers come again: a new file may get the number of a deleted one, whose
record is still there. A record that was written before the file was born is another file's. Where the file system does
not tell when that was (NFS before Linux 6.16), another name is a doubt and no proof: images are renamed.
"""

from __future__ import annotations

import datetime

from vmguard.core.locks.owner_record import Owner
from vmguard.core.words import printable

_RECORD_TIME = "%Y-%m-%dT%H:%M:%SZ"
#: by which the clocks of a host and of a server may differ, where the name alone would not tell
_CLOCKS_S = 300.0


def why_another(owner: Owner, path: str, born: float) -> str:
    """Return why a record belongs to another file, empty if it does not, for all that is known.

    ``born``: when the file was made, in seconds since the epoch; 0: not known.
    """
    if not born:
        return ""
    try:
        claimed = datetime.datetime.strptime(owner.claimed, _RECORD_TIME).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return ""
    renamed = _name(owner.path) != _name(path)
    if claimed >= born - (0.0 if renamed else _CLOCKS_S):
        return ""
    return f"the owner record of its inode number is that of a deleted file, {_named(owner)}, from before it was made"


def doubt(owner: Owner, path: str, born: float) -> str:
    """Return why a record may belong to another file, empty if there is no reason to think so."""
    if born or not owner.path or _name(owner.path) == _name(path):
        return ""
    return f"the owner record names another file, {_named(owner)}: it was renamed, or that one was deleted"


def _named(owner: Owner) -> str:
    return f"{printable(owner.path)} of VM '{printable(owner.vm)}'"


def _name(path: str) -> str:
    return path.rpartition("/")[2]
