"""Open a VM's files: one descriptor each, for the header and later for the lock.

::

    opener = Opener(as_users=((64055, 64055),))         # a claim: writable where exclusive, O_DIRECT
    opener = ReadOnlyOpener()                           # `vmguard plan`
    file = opener.open("/srv/vm/a.qcow2", EXCLUSIVE, "disk vda")
    file.read(4096), file.key, file.size, file.fd; file.close()

A path is first taken hold of, without an open (path_walk.py): only a regular file is ever opened, through what is held,
and only if it lies where it may (reach.py). On NFS that is a LOOKUP for a name that the client does not know yet, then
one OPEN and, for a format with a header, one READ; each fstat is paid for by the answer before it. All of it may hang
with the storage: call it in a process that no deadline depends on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from vmguard.adapters.linux import ofd
from vmguard.adapters.linux.regular_file import STALE_TRIES, kind, link_of, use_cache
from vmguard.adapters.storage.path_walk import Found, find
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.errors import LockUnavailable, PlanError, StorageTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from vmguard.adapters.storage.reach import Reach

    T = TypeVar("T")

PAGE = 4096

# Non-blocking: a FIFO or a device must not hold the open. Not a controlling terminal, not inherited.
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# A lease of a local file server is broken by the open itself; with O_NONBLOCK the caller has to come again.
_LEASE_TRIES = 50
_LEASE_RETRY_S = 0.02

_DAMAGED = {
    errno.ELOOP: "too many symbolic links, or a loop of them (ELOOP)",
    errno.ENAMETOOLONG: "the path or a name in it is too long (ENAMETOOLONG)",
    errno.ENXIO: "it is a socket or a device without a driver (ENXIO)",
}
_UNAVAILABLE = {
    errno.EACCES: ("permission denied (EACCES)", "the lock needs read access, an exclusive one write access too"),
    errno.EPERM: ("operation not permitted (EPERM)", "an immutable file cannot be locked for writing"),
    errno.EROFS: ("the file system is read-only here (EROFS)", "an exclusive lock needs write access: mount it rw"),
    errno.ETXTBSY: ("the file is being executed (ETXTBSY)", "a program that runs cannot be a disk"),
    errno.ESTALE: ("stale file handle (ESTALE)", "the server has replaced or unexported it: check export and mount"),
    errno.EIO: ("input/output error (EIO)", "the storage fails: see the kernel's log"),
    errno.EMFILE: ("too many open files in this process (EMFILE)", "raise LimitNOFILE of libvirtd's unit"),
    errno.ENFILE: ("too many open files on this host (ENFILE)", "raise fs.file-max"),
    errno.EAGAIN: ("another program holds a lease on it and does not let go (EAGAIN)", "see F_SETLEASE in fcntl(2)"),
}
_SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EHOSTDOWN)


class Missing(PlanError):
    """A file that does not exist."""


class NotAFile(PlanError):
    """A path that leads to something else; ``found`` says to what: ``block device``, ``directory``, ``FIFO``..."""

    def __init__(self, what: str, path: str, found: str) -> None:
        super().__init__(f"{what}: {path!r} is a {found}, not a file", path=path)
        self.found = found


class OpenedFile:
    """An open file of a VM. ``key`` (device, inode) is its identity on this host; ``mode`` what it was opened for."""

    __slots__ = ("fd", "key", "mode", "path", "real", "size", "what")

    def __init__(self, found: Found, fd: int, key: tuple[int, int], size: int, mode: str, what: str) -> None:
        self.path = found.path
        #: where it lies, whatever links have led there
        self.real = found.real
        self.fd = fd
        self.key = key
        self.size = size
        self.mode = mode
        self.what = what

    def read(self, count: int = PAGE, offset: int = 0) -> bytes:
        """Read bytes from the file, fewer at its end. Aligned as O_DIRECT wants it: 4096 from 0 are one READ on NFS."""
        start = offset - offset % PAGE
        length = -(-(offset + count - start) // PAGE) * PAGE
        import mmap  # a VM without chains does not pay for it

        with mmap.mmap(-1, length) as buffer:
            try:
                got = self._fill(buffer, start)
            except OSError as problem:
                raise _refusal(problem, self.what, self.path, "read") from problem
            return buffer[offset - start : min(got, offset - start + count)]

    def _fill(self, buffer: mmap.mmap, start: int) -> int:
        try:
            return _read_all(self.fd, buffer, start)
        except OSError as problem:
            flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
            if problem.errno != errno.EINVAL or not flags & os.O_DIRECT:
                raise
            # larger sectors than a page: read through the cache, then go on as before
            fcntl.fcntl(self.fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            try:
                return _read_all(self.fd, buffer, start)
            finally:
                fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            ofd.close(fd)

    def __repr__(self) -> str:
        return f"OpenedFile({self.path!r}, fd {self.fd}, {self.key}, {self.mode})"


def _read_all(fd: int, buffer: mmap.mmap, start: int) -> int:
    done = 0
    with memoryview(buffer) as view:
        while done < len(view):
            with view[done:] as rest:
                got = os.preadv(fd, [rest], start + done)
            done += got
            if got == 0 or got % PAGE:  # the end; a further O_DIRECT read would be unaligned
                break
    return done


class Opener:
    """The way in which a claim opens files.

    ``as_users`` are (uid, gid) pairs to try where root is squashed and even stat is refused. An open as another user
    changes the identity of the whole process for its duration, so it belongs in a process of a single thread.
    """

    __slots__ = ("_reach", "as_users", "direct", "trusted", "writable")

    def __init__(
        self,
        writable: bool = True,
        direct: bool = True,
        as_users: tuple[tuple[int, int], ...] = (),
        trusted: tuple[str, ...] = (),
        reach: Reach | None = None,
    ) -> None:
        self.writable = writable
        #: whether reads pass by the page cache; the open itself is always O_DIRECT, see open_undelegated
        self.direct = direct
        self.as_users = as_users
        #: folders that a share may lead to (storage.trusted_folders)
        self.trusted = trusted
        self._reach = reach

    def open(self, path: str, mode: str, what: str, judge: Callable[[Found], None] | None = None) -> OpenedFile:
        """Open one regular file, unless ``judge`` raises an error for where it lies.

        Raises Missing, NotAFile, PlanError, LockUnavailable, StorageTimeout.
        """
        tries_left = STALE_TRIES
        while True:
            tries_left -= 1
            try:
                return self._open(path, mode, what, judge)
            except OSError as problem:
                if problem.errno != errno.ESTALE or not tries_left:  # the server has replaced what was held
                    raise _refusal(problem, what, path, "open") from problem
            except ValueError as problem:  # a NUL in the path
                raise PlanError(f"{what}: {path!r} is not a file name: {problem}", path=path) from problem

    def _open(self, path: str, mode: str, what: str, judge: Callable[[Found], None] | None) -> OpenedFile:
        flags = _FLAGS | (os.O_RDWR if self.writable and mode == EXCLUSIVE else os.O_RDONLY)
        found = self._find(path)
        try:
            if found.links:
                self.reach.judge_links(found, what)
            if not stat.S_ISREG(found.mode):
                raise self._no_file(found, what)
            if judge is not None:
                judge(found)
            fd = self._open_direct(found, flags)
        finally:
            found.close()
        try:
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        return OpenedFile(found, fd, (status.st_dev, status.st_ino), status.st_size, mode, what)

    @property
    def reach(self) -> Reach:
        """Return the rule on where a share may lead."""
        if self._reach is None:
            from vmguard.adapters.storage.reach import Reach  # only where there are links, chains, or no file at all

            self._reach = Reach(self.trusted)
        return self._reach

    def _no_file(self, found: Found, what: str) -> PlanError:
        """Return the error for what is no file. A device on a share was made by who knows whom."""
        name = kind(found.mode)
        if name.endswith("device") and self.reach.is_on_share(found):
            return PlanError(f"{what}: {found.path!r} is a {name} on a share, not a file", "remove it", found.path)
        return NotAFile(what, found.path, name)

    def _find(self, path: str) -> Found:
        try:
            return find(path)
        except PermissionError:
            found = _as_one_of(self.as_users, lambda: find(path))
            if found is None:
                raise
            return found

    def _open_direct(self, found: Found, flags: int) -> int:
        try:
            fd = self._open_as_anyone(found, flags | os.O_DIRECT)
        except OSError as problem:
            if problem.errno != errno.EINVAL:  # EINVAL: this file system knows no O_DIRECT
                raise
            return self._open_as_anyone(found, flags)
        if not self.direct:
            use_cache(fd)
        return fd

    def _open_as_anyone(self, found: Found, flags: int) -> int:
        link, status = link_of(found.fd), found.status
        try:
            return _open_patiently(link, flags)
        except PermissionError:
            users = ((status.st_uid, status.st_gid), *self.as_users)
            fd = _as_one_of(users, lambda: _open_patiently(link, flags))
            if fd is None:
                raise
            return fd


class ReadOnlyOpener(Opener):
    """The way in which ``vmguard plan`` opens files: with the right to read alone, and without touching the caches."""

    __slots__ = ()

    def __init__(self, trusted: tuple[str, ...] = (), reach: Reach | None = None) -> None:
        super().__init__(writable=False, direct=False, trusted=trusted, reach=reach)


def _open_patiently(path: str, flags: int) -> int:
    for _ in range(_LEASE_TRIES):
        try:
            return os.open(path, flags)
        except BlockingIOError:
            time.sleep(_LEASE_RETRY_S)
    return os.open(path, flags)


def _as_one_of(users: Iterable[tuple[int, int]], call: Callable[[], T]) -> T | None:
    """Return what the first of some users gets who may do it, None if none may, or this is not root.

    Root's other groups stay: they take nothing away.
    """
    for uid, gid in users if os.geteuid() == 0 else ():
        own_group = os.getegid()
        os.setegid(gid)
        try:
            os.seteuid(uid)
            try:
                return call()
            except PermissionError:
                pass
            finally:
                os.seteuid(0)
        finally:
            os.setegid(own_group)
    return None


def _refusal(problem: OSError, what: str, path: str, call: str) -> PlanError | LockUnavailable | StorageTimeout:
    """Return the error that tells a person what an errno means here."""
    number = problem.errno or 0
    if number == errno.EISDIR:
        return NotAFile(what, path, "directory")
    if number in (errno.ENOENT, errno.ENOTDIR):
        reason = "does not exist" if number == errno.ENOENT else "does not exist: a part of its path is no directory"
        hint = "check that its share is mounted, and what a symbolic link on the way points to"
        return Missing(f"{what}: {path!r} {reason}", hint, path)
    if number in _DAMAGED:
        return PlanError(f"{what}: cannot {call} {path!r}: {_DAMAGED[number]}", path=path)
    if number in _SILENT:
        return StorageTimeout(f"{what}: cannot {call} {path!r}: the storage does not answer ({problem.strerror})")
    reason, hint = _UNAVAILABLE.get(number, (problem.strerror or str(problem), ""))
    return LockUnavailable(path, f"{what}: cannot {call} {path!r}: {reason}", hint)


def real_path(fd: int, path: str) -> str:
    """Return where an open disk really lies, whatever links led to it; the local kernel knows it without a request.

    Records belong beside the real file: another host may come to it by another name.
    """
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return path
    return real if real.startswith("/") else path
