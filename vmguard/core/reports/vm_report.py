"""The report of `vmguard check` about one VM: a status for each disk, and one for the whole.

The words are part of the JSON schema (schema 1).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from vmguard.core.locks.owner_record import Owner


class Status(enum.IntEnum):
    """The exit code of `check`, following the convention of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class DiskStatus(enum.StrEnum):
    """The state of one file's lock, as far as it is known."""

    GUARDED_HERE = "guarded-here"
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    HELD_ELSEWHERE = "held-elsewhere"
    HELD_BY_UNKNOWN = "held-by-unknown"
    FREE = "free"
    UNGUARDED_HERE = "unguarded-here"
    UNKNOWN = "unknown"


_STATUS = {
    DiskStatus.GUARDED_HERE: Status.OK,
    DiskStatus.INCOMING: Status.OK,
    DiskStatus.OUTGOING: Status.OK,
    DiskStatus.HELD_ELSEWHERE: Status.OK,
    DiskStatus.FREE: Status.OK,
    DiskStatus.HELD_BY_UNKNOWN: Status.WARNING,
    DiskStatus.UNGUARDED_HERE: Status.CRITICAL,
    DiskStatus.UNKNOWN: Status.UNKNOWN,
}

#: rank of each status when the worst of several is taken
_WEIGHT = {Status.OK: 0, Status.WARNING: 1, Status.UNKNOWN: 2, Status.CRITICAL: 3}


def worst(statuses: list[Status]) -> Status:
    """Return the worst of several statuses; UNKNOWN for none."""
    return max(statuses, key=lambda status: _WEIGHT[status], default=Status.UNKNOWN)


@dataclass
class DiskReport:
    """One file: its status, a sentence for people, what to do, and the owner record if there is one."""

    path: str
    role: str
    mode: str
    verdict: DiskStatus
    text: str
    todo: str = ""
    ranges: str = ""
    guard: str = ""
    #: the descriptor and process that carry the lock
    through: str = ""
    #: why the lock is held beside the VM only
    weaker: str = ""
    owner: Owner | None = None

    @property
    def status(self) -> Status:
        return _STATUS[self.verdict]

    def as_json(self) -> dict[str, object]:
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


class LockJson(TypedDict):
    """What the watchdog knows about one lock. ``verdict`` is kept, lost or unknown; ``kept_age`` is in seconds."""

    path: str
    mount: str
    verdict: str
    evidence: str
    kept_age: float | None


class WatchJson(TypedDict):
    """What the watchdog knows about one VM. The two times are in seconds; None stands for infinity."""

    stance: str
    #: whether the stance is proven, not only ordered
    done: bool
    need: str
    why: str
    lease_age: float | None
    freeze_in: float | None
    #: the current step of its fence; empty when there is no fence
    fence: str
    locks: list[LockJson]


@dataclass
class VmReport:
    """A whole VM. ``state`` is the state of its claim on this host; empty when this host holds no claim."""

    name: str
    uuid: str
    hypervisor: str
    state: str
    summary: str
    disks: list[DiskReport] = field(default_factory=list)
    unguarded: list[dict[str, str]] = field(default_factory=list)
    daemon: str = "up"
    #: None when the watchdog watches no lock of this VM
    watch: WatchJson | None = None
    #: the least status, for what the disks alone do not show (a claim without QEMU, a lost descriptor)
    floor: Status = Status.OK

    @property
    def status(self) -> Status:
        found = [disk.status for disk in self.disks] + [self.floor]
        return worst(found if self.disks else [*found, Status.UNKNOWN])

    def as_json(self) -> dict[str, object]:
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


#: the daemon's word for a guarded file -> its status
GUARDED = {
    "pinned": DiskStatus.GUARDED_HERE,
    "held": DiskStatus.GUARDED_HERE,
    "incoming": DiskStatus.INCOMING,
    "outgoing": DiskStatus.OUTGOING,
}


@dataclass(frozen=True)
class FileGuard:
    """The guard of one file, from the daemon's status message."""

    guard: str
    mode: str
    ranges: str
    #: the holder of the lock in the way, empty when there is none
    conflict: str
    #: why the file is held but not pinned
    unpinned_reason: str
    through: str
    process: str

    @classmethod
    def from_json(cls, file: Mapping[str, Any]) -> FileGuard:
        return cls(
            guard=str(file["guard"]),
            mode=str(file.get("mode", "")),
            ranges=str(file.get("ranges", "")),
            conflict=str(file.get("conflict") or ""),
            unpinned_reason=str(file.get("weaker") or ""),
            through=str(file.get("through") or ""),
            process=str(file.get("process") or ""),
        )


def guard_words(file: Mapping[str, Any]) -> str:
    """Say how one file is guarded: mode, ranges, guard, and through which descriptor of which process.

    ``file`` is one file of the daemon's status message.
    """
    seen = FileGuard.from_json(file)
    if seen.guard == "incoming":
        return "locked by the host that the VM comes from; reserved here: no third host can take it"
    if seen.guard == "outgoing":
        return "left to the host that the VM migrates to, as it writes nothing here any more"
    if seen.guard == "lost":
        return "its lock was lost with the daemon that held it"
    if seen.guard not in GUARDED:
        return f"NOT locked here: {seen.conflict or seen.unpinned_reason or 'the storage has not answered yet'}"
    words = f"locked here ({seen.ranges}), {seen.mode}, {seen.guard}"
    if seen.through:
        return f"{words} on {seen.through}" + (f" ({seen.process})" if seen.process else "")
    return f"{words} beside the VM only: {seen.unpinned_reason or 'no process of the VM has it open'}"
