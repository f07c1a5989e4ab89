"""One guarded file and the descriptor through which it is locked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from vmguard.adapters.linux.proc import Key
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import Range, describe


@dataclass(frozen=True)
class Pin:
    """Whose description carries a lock."""

    pid: int
    fd: int
    #: the process's name, for people
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        who = f"{self.name} (pid {self.pid})" if self.name else f"pid {self.pid}"
        return f"descriptor {self.fd} of {who}"


@dataclass
class GuardedFile:
    """One file of a VM and the descriptor through which it is locked."""

    path: str
    mode: str
    role: str
    source: str
    key: Key
    pieces: list[Range]
    #: where it really lies, whatever links the path leads through: there its owner record is
    real: str = ""
    #: our descriptor of it: the claim's own while it is held, a copy of the process's once it is pinned
    fd: int = -1
    epoch: int = 0
    #: pinned: which descriptor of which process carries the lock
    pin: Pin | None = None
    #: a daemon before this one had pinned it: what systemd kept of it is a copy of that description
    was_pinned: bool = False
    #: looks in a row that did not find it open
    absent: int = 0
    #: why it is only held although QEMU has it open, in words
    weaker: str = ""
    #: several VMs may write to it at once (``<shareable/>``, share-rw): its lock stays a shared one
    shareable: bool = False
    #: its claim was exclusive: nothing that comes makes it shareable
    owned: bool = False
    #: found open, and not named by any claim: hot-plugged, a snapshot's overlay, a VM without its hook
    found: bool = False
    #: a process of the VM had it open at least once
    seen: bool = False
    #: who has it locked although this VM writes to it; empty when nobody does
    conflict: str = ""
    #: CLOCK_BOOTTIME seconds before which a pin that failed is not tried again
    retry: float = 0.0
    #: our descriptor carries no more than the foothold: the VM comes in, and the source has the lock
    foothold: bool = False
    #: CLOCK_BOOTTIME seconds when the request that got this lock was sent; 0: a daemon before this one got it
    granted: float = 0.0

    #: left to the host that the VM migrates to
    outgoing: bool = False

    def __post_init__(self) -> None:
        self.owned = self.owned or (self.mode == EXCLUSIVE and not self.found)

    def hand_over(self, outgoing: bool) -> None:
        """The VM has stopped writing to it, and nothing of ours is locked any more, if it is another host's turn."""
        self.outgoing = outgoing
        if outgoing:
            self.pin = None

    @property
    def guard(self) -> str:
        """``pinned`` on the process's own description, ``held`` beside it; ``incoming``: the foothold alone.

        Without a lock: ``outgoing`` when it is left to the target of a migration, ``conflict`` when somebody else has
        it, ``pending`` before the first try, ``lost`` when a daemon took it with it.
        """
        if self.pin is not None:
            return "pinned"
        if self.fd >= 0:
            return "incoming" if self.foothold else "held"
        if self.outgoing:
            return "outgoing"
        if self.conflict:
            return "conflict"
        return "pending" if self.found else "lost"

    @property
    def held_mode(self) -> str | None:
        """The lock that our own descriptor carries; None when it carries none."""
        return self.mode if self.fd >= 0 and not self.foothold else None

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
            "guard": self.guard,
            "was_pinned": self.was_pinned and self.fd >= 0,
            "weaker": self.weaker,
            "conflict": self.conflict,
            "shareable": self.shareable,
            "owned": self.owned,
            "found": self.found,
            "foothold": self.foothold,
            "through": f"descriptor {self.pin.fd} of pid {self.pin.pid}" if self.pin is not None else "",
            "process": self.pin.name if self.pin is not None else "",
            "epoch": self.epoch,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedFile:
        """Raises KeyError, TypeError or ValueError when the value is not one."""
        return cls(
            path=str(value["path"]),
            mode=str(value["mode"]),
            role=str(value["role"]),
            source=str(value["source"]),
            real=str(value.get("real", value["path"])),
            granted=float(value.get("granted", 0.0)),
            key=(int(value["device"]), int(value["inode"])),
            pieces=[(int(start), int(length)) for start, length in value["pieces"]],
            epoch=int(value.get("epoch", 0)),
            shareable=bool(value.get("shareable")),
            owned=bool(value.get("owned")),
            found=bool(value.get("found")),
            foothold=bool(value.get("foothold")),
            retry=math.inf if value.get("foothold") else 0.0,
            seen=bool(value.get("found") or value.get("weaker")),  # neither comes about but by a look at an open file
            was_pinned=value.get("guard") == "pinned" or value.get("was_pinned") is True,
        )


def was_open(file: GuardedFile) -> bool:
    """A claim that QEMU has not taken into use yet, or whose format it has only looked at, does not end with that.

    A file that the daemon before this one had pinned may have been closed while there was none."""
    return file.pin is not None or file.was_pinned or (file.seen and (file.found or bool(file.weaker)))
