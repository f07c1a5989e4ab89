"""What the daemon and the share answer, as types. Pure.

The daemon's answers are parsed once, where they arrive (``JsonObject.from_json``). From there on mypy knows every
field. A field that an older daemon does not send has a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vmguard.core.locks.owner_record import Owner
from vmguard.query.json_fields import KEY, JsonObject

# -- VMs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FileAnswer(JsonObject, what="a file"):
    """How one file of a VM is guarded."""

    path: str
    mode: str
    role: str
    guard: str
    #: the locked byte ranges, in words
    ranges: str
    inode: int
    #: which descriptor of which process carries the lock, and that process's name; empty when none does
    through: str = ""
    process: str = ""
    #: why the lock is not on the process's own description; empty when it is
    unpinned_reason: str = field(default="", metadata={KEY: "weaker"})
    #: who has it locked although this VM uses it; empty when nobody does
    conflict: str = ""
    #: why it is no longer the file that its path leads to; empty while it is
    replaced: str = ""


@dataclass(frozen=True, kw_only=True)
class ProcessAnswer(JsonObject, what="a process"):
    """A process that does I/O for a VM."""

    pid: int
    name: str


@dataclass(frozen=True, kw_only=True)
class LockAnswer(JsonObject, what="a lock"):
    """What the watchdog knows about the lock of one file."""

    path: str
    #: a word: kept, lost or unknown
    verdict: str
    evidence: str
    mount: str = ""
    #: seconds since the lock was last proven; None when it never was
    kept_age: float | None = None


@dataclass(frozen=True, kw_only=True)
class WatchAnswer(JsonObject, what="the watch of a VM"):
    """What the watchdog knows about one VM."""

    stance: str
    #: what the VM needs: ``none``, or a word such as ``at_risk``
    need: str
    why: str
    #: the sentence of the fence under way; empty when there is none
    fence: str
    #: seconds since the oldest lease that the VM depends on was confirmed; None when it never was
    lease_age: float | None = None
    #: seconds until the VM is frozen if the server stays silent; None when that is not known
    freeze_in: float | None = None
    locks: tuple[LockAnswer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OtherMountAnswer(JsonObject, what="a file on another mount"):
    """A file that a VM writes to, and why no lock on its mount is proven to keep other hosts out."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class VmAnswer(JsonObject, what="a VM"):
    """One VM that this host guards."""

    name: str
    uuid: str
    hypervisor: str
    #: the state of its claim
    state: str
    why: str = ""
    #: UTC, ISO
    claimed: str = ""
    #: of its QEMU; 0 while there is none
    pid: int = 0
    frozen: bool = False
    #: since when: UTC, ISO; empty: not known
    frozen_since: str = ""
    #: why it is being fenced; empty while it is not
    fencing: str = ""
    #: why it was frozen over a conflict; empty when it was not
    stopped: str = ""
    #: the host that it is migrating from; empty when it is not
    incoming: str = ""
    processes: tuple[ProcessAnswer, ...] = ()
    files: tuple[FileAnswer, ...] = ()
    #: None while it is not watched, and in a state file
    watch: WatchAnswer | None = None
    #: files without a lock, on mounts where none is proven to reach other hosts, that the daemon saw it write to
    other_mounts: tuple[OtherMountAnswer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _AdoptResult(JsonObject, what="a VM"):
    result: str


@dataclass(frozen=True)
class AdoptAnswer:
    """What became of one VM that was to be adopted."""

    vm: VmAnswer
    #: a word: adopted, guarded, conflict, pending, would-adopt, nothing, stranger or gone
    result: str

    @classmethod
    def from_json(cls, value: object) -> AdoptAnswer:
        """Parse a VM with its result beside its own keys. Raises WireError if it does not fit."""
        return cls(VmAnswer.from_json(value), _AdoptResult.from_json(value).result)

    @property
    def has_no_lock(self) -> bool:
        """Whether a lock that was tried for is missing: somebody else has it, or the storage has not answered."""
        return self.result in ("conflict", "pending")


# -- the daemon and its watchdog ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PingAnswer(JsonObject, what="a ping"):
    """The daemon itself."""

    version: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class MountAnswer(JsonObject, what="a mount"):
    """The lease of one mount."""

    mount: str
    source: str
    phase: str
    #: how its locks are probed: ``SEEK``, ``READ (the server has no SEEK)``; empty: not known yet
    probes: str = ""
    #: the server's lease, in seconds
    lease: float
    #: seconds, as in WatchAnswer
    lease_age: float | None = None
    freeze_in: float | None = None
    #: how many locks are watched, how many await an answer, how many are proven lost
    locks: int
    unsure: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class FenceAnswer(JsonObject, what="a fence"):
    """A fence under way, with its step as a sentence."""

    name: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class DisarmedAnswer(JsonObject, what="the disarming"):
    """The watchdog reports only: for how many more seconds, since when, why, and by whose order."""

    seconds: float
    since: str
    reason: str
    by: str

    @property
    def sentence(self) -> str:
        """Say for how long, by whom and why; for people."""
        return f"maintenance for {self.seconds:.0f} s more, by {self.by}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class DisarmAnswer(JsonObject, what="the answer to disarm"):
    """The daemon's answer to ``disarm``."""

    disarmed: DisarmedAnswer | None = None
    survives_restart: bool = False


@dataclass(frozen=True, kw_only=True)
class ArmAnswer(JsonObject, what="the answer to arm"):
    """The daemon's answer to ``arm``: what has ended by it."""

    was: DisarmedAnswer | None = None


@dataclass(frozen=True, kw_only=True)
class DescriptorsAnswer(JsonObject, what="the daemon's file descriptors"):
    """How many file descriptors the daemon has open, how many it may have, and whether that is nearly all."""

    used: int
    limit: int
    alarm: bool = False

    @property
    def sentence(self) -> str:
        return f"the daemon has {self.used} of {self.limit} file descriptors in use; without one no VM can be started"


@dataclass(frozen=True, kw_only=True)
class NotifyAnswer(JsonObject, what="a target of messages"):
    """How it stands with one target; ``problem`` says why its last message was not taken, empty when it was."""

    target: str
    type: str = ""
    waiting: int = 0
    problem: str = ""
    failing_since: str = ""
    answer: str = ""
    delivered: str = ""
    messages: int = 0
    dropped: int = 0


@dataclass(frozen=True, kw_only=True)
class HealthAnswer(JsonObject, what="the health"):
    """The leases of all mounts, the fences under way, whether it is disarmed, its configuration and descriptors."""

    mounts: tuple[MountAnswer, ...] = ()
    fences: tuple[FenceAnswer, ...] = ()
    disarmed: DisarmedAnswer | None = None
    #: why the daemon's configuration is not that of the admin's files; empty when it is
    config_problems: tuple[str, ...] = ()
    #: None: a daemon of an older version does not tell
    descriptors: DescriptorsAnswer | None = None
    #: up to when the history is acknowledged, in seconds on CLOCK_BOOTTIME
    acknowledged: float = 0.0
    #: who gets messages about events
    notify: tuple[NotifyAnswer, ...] = ()


NO_HEALTH = HealthAnswer()


class Known(NamedTuple):
    """All that the daemon says, or its state files while it is down; ``problem`` says why, empty when it is not."""

    vms: Sequence[VmAnswer] = ()
    health: HealthAnswer = NO_HEALTH
    problem: str = ""


# -- the share ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LockOnShare:
    """What stands in the way of one file's lock, and its owner record."""

    conflict: bool
    owner: Owner | None
    #: why the owner record could not be read; empty when it could
    record_problem: str
    #: processes of this host that have it locked, as ``qemu-img (pid 12, user root)``
    local_users: tuple[str, ...]
    #: the server's lease in seconds; None when it is not NFSv4 or not known
    lease: float | None
    inode: int
    #: why no lock on its mount is proven to keep other hosts out; empty on NFSv4 and on this host's own file systems
    other_mount: str = ""
    #: why it is not the file that it should be: its share is not mounted over it
    bare: str = ""
    #: why the record may be about another file; empty when there is no reason to think so
    doubt: str = ""
    #: only somebody who reads it is in the way, with a shared lock
    is_reader: bool = False
    #: seconds for which its server gives no new lock at all, by the server's own word; 0: it is not known to be so
    grace_left: float = 0.0
