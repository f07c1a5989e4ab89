"""The process that a hypervisor's pid file names, if the file and the kernel vouch for it. Every read answers at once.

A pid file says nothing by itself: a user may have put it there, or it is an old one and its number another process's by
now. So the file and its folder must be root's, and the process must be the one that the file was written for.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass

from vmguard.adapters.linux import clock, proc
from vmguard.adapters.linux.standing import ROOT, Standing, of

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
#: a file's times and a process's start are rounded, each in its own way
_ROUNDED_S = 0.5


@dataclass(frozen=True)
class PidFile:
    """A pid file that only root can have written."""

    pid: int
    #: when, in seconds since boot
    written: float
    key: proc.Key


def read(path: str) -> PidFile | None:
    """Read a pid file; None if there is none, or anybody but root could have written it (see ``why_not``)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):  # a VM's name may be no file's
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _is_roots(status) or not _is_roots(os.stat(os.path.dirname(path))):
            return None
        pid = int(os.read(fd, 32).strip() or b"0")
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    written = status.st_mtime - (time.time() - clock.boottime())
    return PidFile(pid, written, (status.st_dev, status.st_ino)) if pid > 1 else None


def why_not(path: str) -> str:
    """Return, in words, why a pid file is not believed; empty if it is, or if there is none."""
    try:
        status, folder = os.lstat(path), os.stat(os.path.dirname(path))
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file"
    if not _is_roots(status):
        return f"{path} is not root's alone"
    return "" if _is_roots(folder) else f"the folder of {path} is not root's alone"


def named_by(found: PidFile) -> Standing | None:
    """Return the process that a pid file was written for; None if it is gone, and its number perhaps another's."""
    standing = of(found.pid)
    if standing is None or standing.scope is not None or standing.is_root:
        return standing  # a scope is judged by whoever knows the VM's name, and root needs no proof
    began = standing.started / os.sysconf("SC_CLK_TCK")
    # The host's clock may have been set since. libvirt's QEMU has its pid file open from birth to death.
    return standing if began <= found.written + _ROUNDED_S or _has_open(found) else None


def _has_open(found: PidFile) -> bool:
    users = proc.open_files(found.pid, {found.key[1]})
    return any(user.key == found.key and user.info.writable for user in users)


def _is_roots(status: os.stat_result) -> bool:
    """Return whether only root can change it, or whoever this process runs as."""
    return status.st_uid in (ROOT, os.geteuid()) and not status.st_mode & _WRITABLE_BY_OTHERS
