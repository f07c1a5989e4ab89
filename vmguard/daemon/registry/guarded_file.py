"""One guarded file: which file it is, and the guard that it has."""

from __future__ import annotations

import logging
from dataclasses import InitVar, dataclass, field
from typing import Any

from vmguard.adapters.linux.proc import Key
from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.guard_states import Origin
from vmguard.core.locks.ranges import Range, describe

log = logging.getLogger("vmguard.registry")


@dataclass(eq=False)
class GuardedFile:
    """One file of a VM. Two entries are the same only if they are one object."""

    #: as its claim, or /proc, names it
    path: str
    #: of the lock that it has, or shall have: one of plan.MODES
    mode: str
    #: why it belongs to the VM: one of plan.ROLES
    role: str
    #: where its claim learned of it, for people
    source: str
    #: device and inode
    key: Key
    #: the byte ranges that its lock consists of
    pieces: list[Range]
    #: where it really lies, whatever links the path leads through: there its owner record is; empty: at ``path``
    real: str = ""
    #: of its owner record; 0: none was written
    epoch: int = 0
    #: why it is no longer the file that its path leads to; empty while it is
    replaced: str = ""
    #: None: a hook's claim of that mode
    origin: InitVar[Origin | None] = None
    guard: FileGuard = field(init=False)

    def __post_init__(self, origin: Origin | None) -> None:
        self.guard = FileGuard(origin or Origin.of_claim(self.mode), self._log_move)

    def _log_move(self, line: str) -> None:
        log.info("%s: %s", self.path, line)

    @property
    def locked_mode(self) -> str | None:
        """The lock that our own descriptor carries; None when it carries none."""
        return self.mode if self.guard.descriptor is not None and not self.guard.is_reserved else None

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "mode": self.mode,
            "role": self.role,
            "source": self.source,
            "real": self.real or self.path,
            "device": self.key[0],
            "inode": self.key[1],
            "pieces": [list(piece) for piece in self.pieces],
            "ranges": describe(self.pieces),
            "epoch": self.epoch,
            **({"replaced": self.replaced} if self.replaced else {}),
            **self.guard.as_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedFile:
        """Read an entry of a state file. Raises KeyError, TypeError or ValueError when the value is not one."""
        file = cls._identity(value)
        file.guard = FileGuard.from_json(value, file._log_move)
        return file

    @classmethod
    def from_claim(cls, value: dict[str, Any]) -> GuardedFile:
        """Read what a hook sends. Raises KeyError, TypeError or ValueError when the value is no file."""
        file = cls._identity(value)
        file.guard = FileGuard.from_claim(value, file._log_move)
        return file

    @classmethod
    def _identity(cls, value: dict[str, Any]) -> GuardedFile:
        return cls(
            path=str(value["path"]),
            mode=str(value["mode"]),
            role=str(value["role"]),
            source=str(value["source"]),
            real=str(value.get("real", value["path"])),
            key=(int(value["device"]), int(value["inode"])),
            pieces=[(int(start), int(length)) for start, length in value["pieces"]],
            epoch=int(value.get("epoch", 0)),
        )
