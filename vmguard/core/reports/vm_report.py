"""The report of `vmguard check` about one VM: a status for each disk, and one for the whole.

The words are part of the JSON schema (schema 1).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.owner_record import Owner
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.health import Finding, Health, of_findings
from vmguard.core.reports.status import Status
from vmguard.core.words import printable


class DiskStatus(enum.StrEnum):
    """The state of one file's lock, as far as it is known."""

    GUARDED_HERE = "guarded-here"
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    HELD_ELSEWHERE = "held-elsewhere"
    HELD_BY_UNKNOWN = "held-by-unknown"
    #: on a mount where no lock is proven to keep other hosts out, whatever is locked there
    OTHER_MOUNT = "other-mount"
    FREE = "free"
    UNGUARDED_HERE = "unguarded-here"
    UNKNOWN = "unknown"


_STATUS = {
    DiskStatus.GUARDED_HERE: Status.OK,
    DiskStatus.INCOMING: Status.OK,
    DiskStatus.OUTGOING: Status.OK,
    DiskStatus.HELD_ELSEWHERE: Status.OK,
    DiskStatus.FREE: Status.OK,
    DiskStatus.OTHER_MOUNT: Status.WARNING,
    DiskStatus.HELD_BY_UNKNOWN: Status.WARNING,
    DiskStatus.UNGUARDED_HERE: Status.CRITICAL,
    DiskStatus.UNKNOWN: Status.UNKNOWN,
}


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
    #: ranges, descriptors, epochs: for those who ask for more (-v)
    exact: str = ""

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
    #: why nothing is frozen or fenced; empty while the watchdog acts
    disarmed: str = ""
    #: the times that a fence has killed it here lately
    fenced: list[FencedVm] = field(default_factory=list)
    #: what the watchdog knows, as the daemon sent it: see Oversight.of_vm; None when it watches nothing of this VM
    watch: Mapping[str, object] | None = None
    #: what is to be said about it besides its disks
    findings: Sequence[Finding] = ()

    @property
    def health(self) -> Health:
        """Return how it stands: what is to be said about it, and each disk that is worse than that."""
        found = list(self.findings)
        told = max((finding.severity.weight for finding in found), default=Status.OK.weight)
        found += [
            Finding(disk.status, f"VM '{printable(self.name)}': {disk.path or 'its disks'}: {disk.text}", disk.todo)
            for disk in self.disks
            if disk.status.weight > told
        ]
        if not self.disks:
            found.append(Finding(Status.UNKNOWN, f"VM '{printable(self.name)}' has no disk that is known"))
        return of_findings(found, f"VM '{printable(self.name)}': {self.summary}")

    @property
    def status(self) -> Status:
        return self.health.severity

    def as_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "status": self.status.name,
            "health": self.health.as_json(),
            "name": self.name,
            "uuid": self.uuid,
            "hypervisor": self.hypervisor,
            "state": self.state,
            "summary": self.summary,
            "daemon": self.daemon,
            "disarmed": self.disarmed,
            "fenced": [killed.as_json() for killed in self.fenced],
            "watch": self.watch,
            "disks": [disk.as_json() for disk in self.disks],
            "unguarded": self.unguarded,
        }


def is_unlocked(guards: Iterable[str], runs: bool) -> bool:
    """Return whether a VM lacks a lock. ``guards``: the daemon's word for each of its files."""
    return any(guard in _NO_LOCK or (runs and guard not in GUARDED) for guard in guards)


#: whatever the VM does
_NO_LOCK = (GuardState.LOST, GuardState.CONFLICT)
#: the daemon's word for a guarded file -> its status
GUARDED: dict[str, DiskStatus] = {
    GuardState.PINNED: DiskStatus.GUARDED_HERE,
    GuardState.HELD: DiskStatus.GUARDED_HERE,
    GuardState.RELEASED: DiskStatus.GUARDED_HERE,  # until the unlock is through
    GuardState.INCOMING: DiskStatus.INCOMING,
    GuardState.OUTGOING: DiskStatus.OUTGOING,
}
