"""A file of the plan, opened and then locked, and all of a VM's together."""

from __future__ import annotations

import os
import time

from vmguard.adapters.linux import ofd
from vmguard.adapters.storage.files import real_path
from vmguard.core.locks.plan import EXCLUSIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmguard.core.locks.plan import PlannedFile
    from vmguard.core.locks.ranges import Range


class ClaimedFile:
    """A file of the plan, opened and then locked."""

    __slots__ = ("fd", "foothold", "granted", "key", "pieces", "plan", "real")

    def __init__(self, plan: PlannedFile, fd: int, key: tuple[int, int], pieces: list[Range]) -> None:
        self.plan = plan
        self.fd = fd
        self.key = key
        self.pieces = pieces
        self.real = real_path(fd, plan.path)
        #: when the request that got its lock was sent: the lease is proven from there on
        self.granted = 0.0
        #: only that is locked: the rest is the host's that the VM comes from
        self.foothold = False

    def lock(self, piece: Range) -> None:
        """Raises LockConflict, LockUnavailable or OSError."""
        self.granted = boottime()
        ofd.lock(self.fd, self.plan.path, ofd.WRITE if self.plan.mode == EXCLUSIVE else ofd.READ, piece)

    def as_json(self) -> dict[str, Any]:
        value: dict[str, Any] = dict(self.plan.as_json())
        value.update(real=self.real, device=self.key[0], inode=self.key[1], pieces=self.pieces)
        value.update(granted=self.granted, foothold=self.foothold)
        return value


class Claimed:
    """All files of a VM, locked, and what people should know about the rest."""

    __slots__ = ("files", "source", "warnings")

    def __init__(self, files: list[ClaimedFile], warnings: list[str], source: str) -> None:
        self.files = files
        self.warnings = warnings
        #: the host that still has them, when the VM comes in from there; else empty
        self.source = source

    def close(self) -> None:
        """Close this process's descriptors; the daemon's copies keep the locks."""
        for file in self.files:
            os.close(file.fd)


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds, without the import of an adapter."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
