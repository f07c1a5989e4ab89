"""Read a file that only root can have written: a hypervisor's own. Every read answers at once.

Anybody can put a FIFO, a link or a file of his own where a folder lets him. So the file and its folder must be root's
(or those of whoever this process runs as), and nothing but a regular file is read.
"""

from __future__ import annotations

import errno
import os
import stat

ROOT = 0
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def read(path: str, most: int) -> tuple[bytes, os.stat_result]:
    """Return the first bytes of a file, and its status. Raises OSError, ValueError for what is no file's name."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not is_roots(status) or not is_roots(os.stat(os.path.dirname(path))):
            raise OSError(errno.EPERM, "it is not root's alone", path)
        return os.read(fd, most), status
    finally:
        os.close(fd)


def why_not(path: str) -> str:
    """Return, in words, why a file is not believed; empty if it is, or if there is none."""
    try:
        status, folder = os.lstat(path), os.stat(os.path.dirname(path))
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file"
    if not is_roots(status):
        return f"{path} is not root's alone"
    return "" if is_roots(folder) else f"the folder of {path} is not root's alone"


def require_folder(folder: str) -> None:
    """Raise VmguardError where anybody but root could exchange a program that root will run. What is missing passes."""
    from vmguard.core.words import shell_word
    from vmguard.errors import VmguardError

    try:
        is_safe = is_roots(os.stat(folder))
    except OSError:
        return
    if not is_safe:
        why = f"{folder} can be written by others than root, and what lies there is run as root"
        raise VmguardError(why, f"chown root: {shell_word(folder)}; chmod go-w {shell_word(folder)}")


def is_roots(status: os.stat_result) -> bool:
    """Return whether only root can change it, or whoever this process runs as."""
    return status.st_uid in (ROOT, os.geteuid()) and not status.st_mode & _WRITABLE_BY_OTHERS
