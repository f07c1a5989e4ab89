"""Write a file in a folder that may be somebody else's, so that only that folder's entry of that name can change.

The owner of the folder (Debian: user prometheus, for node_exporter's files) can put links, FIFOs and guessed names
there, and swap them at any moment. So nothing is done by a path that is walked twice: the folder is opened once, and
everything happens in it by descriptor. The new file has a name that cannot be guessed and is made by O_EXCL; its mode
is set by descriptor; then it takes the old one's place by a rename, which follows no link and opens no file. Nothing
that was there before is ever opened, so nothing elsewhere can be overwritten, shortened or given another mode.

A symbolic link on the way to the folder is followed only if root or the caller has made it.

The only module that writes files by name: tests/unit/test_structure_writes.py holds that.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: a leftover of a process that was killed ends in it
UNFINISHED = ".new"
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: as in the kernel
_MAX_LINKS = 40


def write(path: str, data: bytes, mode: int | None = 0o600, *, sync: bool = True, aside: str = "") -> None:
    """Replace a file, whole or not at all. Raises OSError; the old one is untouched then.

    ``mode`` None: the file system has modes of its own. ``sync``: it is on the disk, under its name, on return.
    ``aside``: a folder of the same file system for the unfinished file, where nothing may see it in its own.
    """
    folder, name = os.path.split(path)

    def make(fresh: str, beside: int) -> None:
        fd = os.open(fresh, _NEW_FILE, 0o600, dir_fd=beside)
        try:
            _fill(fd, data, mode, sync)
        finally:
            os.close(fd)

    with _opened(folder) as place, _opened(aside or folder) as beside:
        _put(name, place, beside, make)
        if sync:
            _sync_folder(place)


def create(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make a file that must not be there yet, whole or not at all. Raises OSError (FileExistsError if it is there)."""
    folder, name = os.path.split(path)
    with _opened(folder) as place:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=place)
        try:
            _fill(fd, data, mode, True)
        except BaseException:
            _remove(name, place)
            raise
        finally:
            os.close(fd)


def link(path: str, target: str) -> None:
    """Replace a file by a symbolic link. Raises OSError; the old one is untouched then."""
    folder, name = os.path.split(path)
    with _opened(folder) as place:
        _put(name, place, place, lambda fresh, beside: os.symlink(target, fresh, dir_fd=beside))
        _sync_folder(place)


def append(path: str, data: bytes) -> None:
    """Append to a file of our own, mode 0600, which is made if it is missing. Raises OSError."""
    folder, name = os.path.split(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _opened(folder) as place:
        fd = os.open(name, flags, 0o600, dir_fd=place)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
            raise OSError(errno.EPERM, "it is not a file of our own alone", path)
        os.write(fd, data)
    finally:
        os.close(fd)


def own_folder(path: str) -> None:
    """Make a folder that is ours alone, or find that it is. Raises OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    with _opened(path) as folder:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(errno.EPERM, "others may write in this folder, or it is another user's", path)


# -- inside ---------------------------------------------------------------------------------------------------------


def _put(name: str, place: int, beside: int, make: Callable[[str, int], None]) -> None:
    """Make a file under a name that nobody can guess, and give it its own name."""
    fresh = f"{name}.{os.urandom(8).hex()}{UNFINISHED}"
    try:
        make(fresh, beside)
        os.rename(fresh, name, src_dir_fd=beside, dst_dir_fd=place)
    except BaseException:
        _remove(fresh, beside)
        raise


def _fill(fd: int, data: bytes, mode: int | None, sync: bool) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    if mode is not None:
        os.fchmod(fd, mode)
    if sync:
        os.fsync(fd)


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _sync_folder(folder: int) -> None:
    """Have a rename on the disk. A file system that does not know this has no such need."""
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        pass  # the new file is there, whole; only a power cut could bring the old one back


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    """Open a folder for the length of a ``with`` block. Raises OSError."""
    here = os.open("/" if folder.startswith("/") else ".", _FOLDER)
    try:
        todo = _words(folder)
        links = 0
        while todo:
            word = todo.pop()
            try:
                below = os.open(word, _FOLDER, dir_fd=here)
            except NotADirectoryError:
                target = _read_link(word, here, folder)
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), folder) from None
                todo += _words(target)
                if not target.startswith("/"):
                    continue
                below = os.open("/", _FOLDER)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _words(path: str) -> list[str]:
    """Return the parts of a path, the last one first."""
    return [word for word in reversed(path.split("/")) if word not in ("", ".")]


def _read_link(name: str, folder: int, path: str) -> str:
    """Return where a symbolic link leads. Raises OSError if it is none, or a stranger's."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if status.st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, f"{name} on the way is a symbolic link of user {status.st_uid}", path)
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
