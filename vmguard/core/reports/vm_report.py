"""What `vmguard check` says of a VM: one verdict for each disk, and one for the whole.

The words are part of the JSON schema (schema 1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.owner_record import Owner


class Status(enum.IntEnum):
    """The exit code of `check`, by the convention of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Verdict(enum.StrEnum):
    """What is known about the lock of one file."""

    GUARDED_HERE = "guarded-here"
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    HELD_ELSEWHERE = "held-elsewhere"
    HELD_BY_UNKNOWN = "held-by-unknown"
    FREE = "free"
    UNGUARDED_HERE = "unguarded-here"
    UNKNOWN = "unknown"


_STATUS = {
    Verdict.GUARDED_HERE: Status.OK,
    Verdict.INCOMING: Status.OK,
    Verdict.OUTGOING: Status.OK,
    Verdict.HELD_ELSEWHERE: Status.OK,
    Verdict.FREE: Status.OK,
    Verdict.HELD_BY_UNKNOWN: Status.WARNING,
    Verdict.UNGUARDED_HERE: Status.CRITICAL,
    Verdict.UNKNOWN: Status.UNKNOWN,
}

#: how bad a status is for the whole, when several meet
_WEIGHT = {Status.OK: 0, Status.WARNING: 1, Status.UNKNOWN: 2, Status.CRITICAL: 3}


def worst(statuses: list[Status]) -> Status:
    return max(statuses, key=lambda status: _WEIGHT[status], default=Status.UNKNOWN)


@dataclass
class DiskReport:
    """One file: verdict, the sentence for people, what to do, and the owner record if there is one."""

    path: str
    role: str
    mode: str
    verdict: Verdict
    text: str
    todo: str = ""
    ranges: str = ""
    guard: str = ""
    #: which descriptor of which process carries the lock, and why none does
    through: str = ""
    weaker: str = ""
    owner: Owner | None = None

    @property
    def status(self) -> Status:
        return _STATUS[self.verdict]

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "role": self.role,
            "mode": self.mode,
            "verdict": str(self.verdict),
            "text": self.text,
            "todo": self.todo,
            "ranges": self.ranges,
            "guard": self.guard,
            "through": self.through,
            "weaker": self.weaker,
            "owner": self.owner.as_json() if self.owner is not None else None,
        }


@dataclass
class VmReport:
    """A whole VM. ``state`` is the life of its claim on this host, empty when this host holds none."""

    name: str
    uuid: str
    hypervisor: str
    state: str
    summary: str
    disks: list[DiskReport] = field(default_factory=list)
    unguarded: list[dict[str, str]] = field(default_factory=list)
    daemon: str = "up"
    #: what the watchdog knows: see Oversight.of_vm; None when it watches nothing of this VM
    watch: dict[str, Any] | None = None
    #: a status that the disks alone do not show (a claim without QEMU, a lost descriptor)
    floor: Status = Status.OK

    @property
    def status(self) -> Status:
        found = [disk.status for disk in self.disks] + [self.floor]
        return worst(found if self.disks else [*found, Status.UNKNOWN])

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "status": self.status.name,
            "name": self.name,
            "uuid": self.uuid,
            "hypervisor": self.hypervisor,
            "state": self.state,
            "summary": self.summary,
            "daemon": self.daemon,
            "watch": self.watch,
            "disks": [disk.as_json() for disk in self.disks],
            "unguarded": self.unguarded,
        }


#: how the daemon guards a file, as far as it does
GUARDED: dict[str, Verdict] = {
    GuardState.PINNED: Verdict.GUARDED_HERE,
    GuardState.HELD: Verdict.GUARDED_HERE,
    GuardState.RELEASED: Verdict.GUARDED_HERE,  # until the unlock is through
    GuardState.INCOMING: Verdict.INCOMING,
    GuardState.OUTGOING: Verdict.OUTGOING,
}


def guard_words(file: dict[str, Any]) -> str:
    """How one file is guarded, in words: mode, ranges, guard, and through which descriptor of which process."""
    if file["guard"] == GuardState.INCOMING:
        return "locked by the host that the VM comes from; reserved here: no third host can take it"
    if file["guard"] == GuardState.OUTGOING:
        return "left to the host that the VM migrates to, as it writes nothing here any more"
    if file["guard"] == GuardState.LOST:
        return "its lock was lost with the daemon that held it"
    if file["guard"] not in GUARDED:
        return f"NOT locked here: {file.get('conflict') or file.get('weaker') or 'the storage has not answered yet'}"
    words = f"locked here ({file['ranges']}), {file['mode']}, {file['guard']}"
    if file["guard"] == GuardState.RELEASED:
        return f"{words}: it is being let go of"
    if file.get("through"):
        return f"{words} on {file['through']}" + (f" ({file['process']})" if file.get("process") else "")
    why = file.get("weaker") or "no process of the VM has it open"
    return f"{words} beside the VM only: {why}"
