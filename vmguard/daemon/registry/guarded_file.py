"""One guarded file: its identity, and its guard."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

from vmguard.adapters.linux.proc import Key, OpenFile
from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.guard_states import Origin
from vmguard.core.locks.plan import BACKING, EXCLUSIVE, OUTPUT, SHARED, role_of_found
from vmguard.core.locks.ranges import Range, describe
from vmguard.core.watchdog.policy import Stake

log = logging.getLogger("vmguard.registry")


class Access(enum.Enum):
    """How the processes of a VM have a file open."""

    UNKNOWN = enum.auto()
    READ = enum.auto()
    #: output only: a dump, a saved state
    WRITE_ONLY = enum.auto()
    READ_WRITE = enum.auto()

    @classmethod
    def of(cls, flags: Iterable[int]) -> Access:
        """Return the access that the open flags of all its descriptors add up to."""
        modes = {each & os.O_ACCMODE for each in flags}
        if modes == {os.O_WRONLY}:
            return cls.WRITE_ONLY
        return cls.READ if modes == {os.O_RDONLY} else cls.READ_WRITE if modes else cls.UNKNOWN


@dataclass(eq=False)
class GuardedFile:
    """One file of a VM. Entries are compared by object identity."""

    #: the name in its claim, or in /proc
    path: str
    #: mode of its lock, held or wanted: one of plan.MODES
    mode: str
    #: why it belongs to the VM: one of plan.ROLES
    role: str
    #: where its claim found it, for people
    source: str
    #: device and inode
    key: Key
    #: the byte ranges that its lock consists of
    pieces: list[Range]
    #: its path without symbolic links, beside which its owner record lies; empty: same as ``path``
    real: str = ""
    #: epoch of its owner record; 0: none was written
    epoch: int = 0
    #: how often its lock was lost and taken again on the same description
    relocks: int = 0
    #: how the VM's processes have it open, as of the last scan
    access: Access = Access.UNKNOWN
    #: why its path leads to another file by now; empty while it does not
    replaced: str = ""
    #: None: a hook's claim of that mode
    origin: InitVar[Origin | None] = None
    guard: FileGuard = field(init=False)

    def __post_init__(self, origin: Origin | None) -> None:
        self.guard = FileGuard(origin or Origin.of_claim(self.mode), self._log_move)

    def _log_move(self, line: str) -> None:
        log.info("%s: %s", self.path, line)

    @classmethod
    def found(cls, users: Sequence[OpenFile], pieces: list[Range]) -> GuardedFile:
        """Return an entry for an open file that no claim names."""
        writable = any(user.info.writable for user in users)
        return cls(
            path=users[0].path,
            mode=EXCLUSIVE if writable else SHARED,
            role=role_of_found(users[0].path, writable),
            source=f"open in pid {users[0].pid}",
            key=users[0].key,
            pieces=pieces,
            origin=Origin.FOUND,
        )

    def note_access(self, flags: Iterable[int]) -> bool:
        """Update ``access`` from the open flags of its descriptors, if any; return whether it has changed."""
        before, now = self.access, Access.of(flags)
        self.access = before if now is Access.UNKNOWN else now
        return self.access is not before

    @property
    def stake(self) -> Stake:
        """Return what the loss of its lock can cost the VM; unknown access counts as the worst."""
        if (self.access is Access.WRITE_ONLY or self.role == OUTPUT) and self.guard.origin.is_found:
            return Stake.SPARE
        if self.mode == EXCLUSIVE or self.access in (Access.UNKNOWN, Access.READ_WRITE):
            return Stake.VITAL
        return Stake.BACKING if self.role == BACKING else Stake.SPARE

    @property
    def locked_mode(self) -> str | None:
        """Return the mode of the lock on our own descriptor; None if it carries none."""
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
