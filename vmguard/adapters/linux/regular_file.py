"""Open a regular file and nothing else: no device, FIFO or socket, whatever others have put at its path.

To open is to act: it arms a watchdog, wakes whoever waits at a FIFO's other end, rewinds a tape. So a path that others
may write to is first taken hold of (O_PATH), which opens nothing. What is held is judged, and then opened through that
very descriptor: nobody can exchange it in between. On NFS the first step is a LOOKUP, unless the client knows the name
already, the second an OPEN by file handle.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

_KINDS = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISLNK, "symbolic link"),
)
#: a file that its server has replaced between the two steps is looked for anew
STALE_TRIES = 3


def kind(mode: int) -> str:
    """Return what a mode that is no regular file's is the mode of, in words."""
    return next((name for test, name in _KINDS if test(mode)), "special file")


def hold(path: str, dir_fd: int | None = None) -> int:
    """Take hold of what a path names, a symbolic link itself in its place, without opening it. Raises OSError."""
    return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def link_of(held: int) -> str:
    """Return the name by which a held file is opened."""
    return f"/proc/self/fd/{held}"


def open_regular(path: str, flags: int, dir_fd: int | None = None, links: int = 0) -> int:
    """Open a regular file that no symbolic link stands for. Raises OSError, with the reason as its ``strerror``.

    ``links``: the number of names that it may have, for a file whose other names could be anybody's; 0: any.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for tries_left in reversed(range(STALE_TRIES)):
        held = hold(path, dir_fd)
        try:
            status = os.fstat(held)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ELOOP, f"it is a {kind(status.st_mode)}, not a file", path)
            if links and status.st_nlink > links:
                raise OSError(errno.EMLINK, f"it is hard-linked ({status.st_nlink} names)", path)
            return os.open(link_of(held), flags)
        except OSError as problem:
            if problem.errno != errno.ESTALE or not tries_left:
                raise
        finally:
            os.close(held)
    raise AssertionError("the last try returns or raises")


def read_regular(path: str, dir_fd: int | None = None, links: int = 0) -> int:
    """Open a regular file for reading, as ``open_regular`` does, and without a delegation. Raises OSError."""
    try:
        fd = open_regular(path, os.O_RDONLY | os.O_DIRECT, dir_fd, links)
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise
        return open_regular(path, os.O_RDONLY, dir_fd, links)
    use_cache(fd)
    return fd


def open_undelegated(path: str, flags: int = 0) -> int:
    """Open for reading, O_DIRECT at first: an NFS client then asks for no delegation. Raises OSError.

    It would keep one after the close, and if this host dies, every open for writing on another waits for a whole lease.
    """
    flags |= os.O_RDONLY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_DIRECT)
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise
        return os.open(path, flags)
    use_cache(fd)
    return fd


def use_cache(fd: int) -> None:
    """Let reads and writes go through the page cache from now on."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
