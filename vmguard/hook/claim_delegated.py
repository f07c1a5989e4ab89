"""The claim of a disk that the NFS server has delegated to this host: its lock would stay in this host's NFS client.

That is nearly every disk that this host has just made or copied, on a Linux server since 6.6. Imported only for such a
claim. See vmguard/adapters/storage/delegation.py.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import ofd
from vmguard.adapters.storage import delegation
from vmguard.core.locks.ranges import WHOLE
from vmguard.core.words import printable
from vmguard.errors import LockUnavailable

#: until a claim is refused; one is enough, unless programs without O_DIRECT keep opening the file
_TRIES = 3
_CURE = (
    "close what has it open here (qemu-img, a copy); echo 0 > /sys/module/nfsv4/parameters/delegation_watermark;"
    " head -c1 {path} > /dev/null; sleep 1; start it again. If that does not help, on a Linux server: sysctl"
    " fs.leases-enable=0"
)


def give_back(path: str, fd: int, real: str, tries: int) -> None:
    """Free a lock that stayed here, and give the file's delegation back, so that it can be locked anew.

    ``tries``: how often that was done before. Raise LockUnavailable if it cannot be done.
    """
    ofd.unlock(fd, WHOLE)
    problem = "it was given to this host again at once" if tries >= _TRIES else _give_back(fd, real)
    if problem:
        raise LockUnavailable(
            path,
            f"disk {printable(path)} cannot be locked on the server: it has delegated the file to this host, so the"
            f" lock stays in this host's NFS client, and the delegation cannot be given back: {problem}",
            _CURE.format(path=printable(path)),
        )


def _give_back(fd: int, real: str) -> str:
    """Return why it cannot be done; empty if it is done."""
    try:
        delegation.give_back(fd, real)
    except OSError as problem:
        folder = printable(os.path.dirname(real))
        return f"a second name cannot be made in {folder} for a moment ({problem.strerror or problem})"
    return ""
