"""The process that a hypervisor's pid file names, if the file and the kernel vouch for it. Every read answers at once.

A pid file says nothing by itself: a user may have put it there, or it is an old one and its number another process's by
now. So the file and its folder must be root's, and the process must be the one that the file was written for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from vmguard.adapters.linux import clock, proc, roots_file
from vmguard.adapters.linux.standing import Standing, of

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
    """Read a pid file; None if there is none, or anybody but root could have written it (``roots_file.why_not``)."""
    try:
        data, status = roots_file.read(path, 32)
        pid = int(data.strip() or b"0")
    except (OSError, ValueError):  # a VM's name may be no file's
        return None
    written = status.st_mtime - (time.time() - clock.boottime())
    return PidFile(pid, written, (status.st_dev, status.st_ino)) if pid > 1 else None


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
