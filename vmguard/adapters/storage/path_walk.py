"""Find what lies at a path without opening it, and which symbolic links have led there.

Where no link is on the way, the kernel's own walk is all there is: what it found has the very name that was asked for.
Else the path is walked once more, a name at a time and always by name. So no magic link of /proc is ever followed (it
has no name behind it), and each link is known with the mount that it lies on: reach.py judges those on a share.
"""

from __future__ import annotations

import errno
import os
import stat

from vmguard.adapters.linux.regular_file import hold, link_of

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: as the kernel's own (MAXSYMLINKS)
_MAX_LINKS = 40


class Found:
    """What lies at a path, held but not opened."""

    __slots__ = ("fd", "links", "path", "real", "status")

    def __init__(self, path: str, fd: int, links: list[tuple[str, int]]) -> None:
        self.path = path
        self.fd = fd
        #: where it lies, whatever links have led there
        self.real = os.readlink(link_of(fd))
        self.status = os.fstat(fd)
        #: the links on the way: the place of each, and the id of the mount that it lies on
        self.links = links

    @property
    def mode(self) -> int:
        return self.status.st_mode

    def close(self) -> None:
        os.close(self.fd)


def find(path: str) -> Found:
    """Find what lies at a path; the caller closes it. Raises OSError, ValueError for a NUL in it. May hang."""
    held = hold(path)
    try:
        found = Found(path, held, [])
        if found.real == path and not stat.S_ISLNK(found.mode):
            held = -1
            return found
    finally:
        if held >= 0:
            os.close(held)
    return _by_name(path)


def find_near(path: str) -> Found:
    """Find what lies at a path without links, as it was found once; the caller closes it. Raises as ``find``.

    A link that has been put there since is followed only to what lies beside it or below, any other is an ELOOP:
    anywhere else may be a storage that never answers.
    """
    return _by_name(path, near=True)


def _by_name(path: str, near: bool = False) -> Found:
    names = path.split("/")[::-1]
    links: list[tuple[str, int]] = []
    at = os.open("/" if path.startswith("/") else ".", _DIRECTORY)
    try:
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            held = _step(name, at, bool(names))
            text = _text_of(held)
            if text is None:
                at = _replace(at, held)
                continue
            try:
                if len(links) == _MAX_LINKS or (near and (text.startswith("/") or ".." in text.split("/"))):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                links.append(_place(held))
            finally:
                os.close(held)
            names += text.split("/")[::-1]
            if text.startswith("/"):
                at = _replace(at, os.open("/", _DIRECTORY))
        found = Found(path, at, links)
        at = -1
        return found
    finally:
        if at >= 0:
            os.close(at)


def _step(name: str, at: int, more: bool) -> int:
    """Hold what a name means in a directory. With ``more`` behind it, it is a directory (or a link): that mounts it."""
    if more:
        try:
            return os.open(name, _DIRECTORY, dir_fd=at)
        except NotADirectoryError:
            pass
    return hold(name, at)


def _text_of(held: int) -> str | None:
    """Return the text of a symbolic link that is held, None for anything else."""
    return os.readlink("", dir_fd=held) if stat.S_ISLNK(os.fstat(held).st_mode) else None


def _place(held: int) -> tuple[str, int]:
    from vmguard.adapters.linux import proc

    return os.readlink(link_of(held)), proc.fdinfo("self", held).mount_id


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new
