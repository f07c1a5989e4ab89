"""Open file description locks (fcntl(2), F_OFD_*): the locks that a claim consists of.

They belong to the open file description, not to the process: every copy of the descriptor (dup, fork, SCM_RIGHTS,
pidfd_getfd) shares them, and they end when the last copy is closed. POSIX locks (lockf, F_SETLK) would vanish as
soon as any descriptor of the file is closed anywhere in the process, so they never touch a disk image here.

On NFS each of these calls may hang: while the server is in its grace period even the non-blocking form waits in
the kernel, which retries NFS4ERR_GRACE by itself. Call them in a process or thread that no deadline depends on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from vmguard.core.locks.ranges import Range
from vmguard.errors import LockConflict, LockUnavailable

READ = fcntl.F_RDLCK
WRITE = fcntl.F_WRLCK

# struct flock of 64-bit Linux: l_type, l_whence, (padding), l_start, l_len, l_pid, (padding)
_FLOCK = "hhqqi4x"

_UNAVAILABLE = {
    errno.ENOLCK: "the server or this host has no locks to give (ENOLCK)",
    errno.EOPNOTSUPP: "this file system does not support byte-range locks (EOPNOTSUPP)",
    errno.ENOSYS: "this file system does not support byte-range locks (ENOSYS)",
    errno.EINVAL: "this kernel or file system does not know open file description locks (EINVAL)",
}


class Conflict:
    """A lock that stands in the way, as F_OFD_GETLK shows it. A shared one is not ``exclusive``; NFS names no owner."""

    __slots__ = ("exclusive", "pid", "piece")

    def __init__(self, exclusive: bool, piece: Range, pid: int) -> None:
        self.exclusive = exclusive
        self.piece = piece
        self.pid = pid


def _flock(kind: int, piece: Range) -> bytes:
    return struct.pack(_FLOCK, kind, 0, piece[0], piece[1], 0)


def posix_holder(fd: int) -> int:
    """Return the process with a POSIX lock anywhere on the file (F_GETLK), 0 if there is none. Takes no lock itself.

    For the daemon's own lock file, never for a disk image.
    """
    answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, _flock(fcntl.F_WRLCK, (0, 0))))
    return 0 if answer[0] == fcntl.F_UNLCK else int(answer[4])


def lock(fd: int, path: str, kind: int, piece: Range) -> None:
    """Take a lock without waiting for other holders.

    Raises LockConflict when one is in the way, LockUnavailable when locks do not work here, OSError otherwise.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(kind, piece))
    except OSError as problem:
        if problem.errno in (errno.EAGAIN, errno.EACCES):
            raise LockConflict(path) from None
        reason = _UNAVAILABLE.get(problem.errno or 0)
        if reason is not None:
            raise LockUnavailable(path, f"cannot lock {path}: {reason}") from problem
        raise


def close(fd: int) -> None:
    """Close a descriptor of a file on a share. Raises OSError only if it is none (EBADF).

    NFS flushes at each close of a description that may be written through, and reports what has become of anybody's
    writes to the file (fs/nfs/nfs4file.c, nfs4_file_flush): after a lost lock that is EIO. The descriptor is closed.
    """
    try:
        os.close(fd)
    except OSError as problem:
        if problem.errno == errno.EBADF:
            raise


def unlock(fd: int, piece: Range) -> None:
    """Free a range; on NFS one LOCKU."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, piece))


def conflict(fd: int, kind: int, piece: Range) -> Conflict | None:
    """Ask what would stand in the way of a lock (F_OFD_GETLK); return None if nothing would.

    It is a hint for people, never a proof: the local kernel answers first and goes on reporting a lock that the
    server has long dropped (fs/nfs/nfs4proc.c, nfs4_proc_getlk after posix_test_lock).
    """
    answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(kind, piece)))
    if answer[0] == fcntl.F_UNLCK:
        return None
    return Conflict(answer[0] == fcntl.F_WRLCK, (answer[2], answer[3]), answer[4])


def stays_here(fd: int) -> bool:
    """Return whether an exclusive lock on a descriptor of ours has not left this host's NFS client. It asks nobody.

    That is a lock under a write delegation. _nfs4_proc_setlk (fs/nfs/nfs4proc.c) saves the lock's flags in a byte,
    which the flag for OFD does not fit in, and enters a lock that it keeps to itself with these flags: fdinfo calls it
    POSIX. It still does when the lock is sent later, as the delegation ends, until it is taken anew. (Measured on Linux
    6.1, 6.12 and 7.2. On a kernel that mends this the count of LOCK requests tells: hook/claim_on_share.py.)
    """
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(info, 65536).split(b"\n")
    finally:
        os.close(info)
    return any(line.split()[2:5:2] == [b"POSIX", b"WRITE"] for line in lines if line.startswith(b"lock:"))
