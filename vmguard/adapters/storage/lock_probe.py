"""Probe a lock: I/O through the description that holds it is the one proof. Only in a thread that may hang.

On NFSv4.2 SEEK_DATA costs one small request, moves no data, and carries the lock's stateid, which the server checks
first (nfsd4_seek, nfs4_preprocess_stateid_op). It asks behind the end of every file, so the client has no dirty pages
to flush before it, and the server answers "no data there" (ENXIO) to a lock that stands. Older versions have no SEEK:
there it is a read of one page past the page cache, which must not have it: a description without O_DIRECT gives the
page back first (posix_fadvise; a dirty page stays, and tells nothing).

A lock that the client knows to be lost gives EIO at once, without a request (fs/nfs/nfs4proc.c,
nfs4_select_rw_stateid). An EIO that the server itself sent (NFS4ERR_IO, a broken disk there) is counted in mountstats:
that tells the two apart.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from vmguard.adapters.linux import mounts

_BEHIND_EVERYTHING = 1 << 62
_PAGE_BYTES = 4096


def ask(fd: int, seek: bool) -> str:
    """Return the errno's name (EIO: lost), empty if the server honours the lock."""
    try:
        if seek:
            os.lseek(fd, _BEHIND_EVERYTHING, os.SEEK_DATA)
        else:
            _read(fd)
    except OSError as problem:
        if seek and problem.errno == errno.ENXIO:
            return ""
        return errno.errorcode.get(problem.errno or 0, str(problem.errno))
    return ""


def ask_twice(fd: int, seek: bool, point: str) -> tuple[str, bool | None]:
    """Return what ``ask`` returns, and whether an EIO is the server's own; None if that is not known."""
    problem = ask(fd, seek)
    if problem != "EIO":
        return problem, None
    before = server_errors(point, seek)
    problem = ask(fd, seek)
    after = server_errors(point, seek)
    return problem, None if before is None or after is None else after > before


def server_errors(point: str, seek: bool, path: str = mounts.MOUNTSTATS) -> int | None:
    """Return how many of these requests a mount's server has answered with an error; None where that is not known.

    It is not known either when several NFS mounts lie on that mount point: then the count could be the wrong one's.
    """
    found = [seen for seen in mounts.all_statistics(path) if seen.point == point]
    return found[0].errors("SEEK" if seek else "READ") if len(found) == 1 else None


def _read(fd: int) -> None:
    if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
        os.posix_fadvise(fd, 0, _PAGE_BYTES, os.POSIX_FADV_DONTNEED)
    with mmap.mmap(-1, _PAGE_BYTES) as buffer:
        os.preadv(fd, [buffer], 0)
