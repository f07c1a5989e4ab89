"""What the daemon and the share answer, as types. Pure.

The daemon's answers are parsed once, where they arrive; from there on mypy knows every field. What ``--json`` prints
is kept as it came (``json``), including keys that this version does not know. A field that an older daemon does not
send, or sends as null, gets its default. Every ``from_json`` raises WireError on anything else that does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmguard.core.locks.owner_record import Owner
from vmguard.query.json_fields import Fields, Json

# -- VMs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileAnswer:
    """How one file of a VM is guarded."""

    path: str
    mode: str
    role: str
    guard: str
    #: the locked byte ranges, in words
    ranges: str
    inode: int
    #: which descriptor of which process carries the lock, and that process's name; empty when none does
    through: str
    process: str
    #: why the lock is not on the process's own description; empty when it is
    unpinned_reason: str
    #: who has it locked although this VM uses it; empty when nobody does
    conflict: str
    #: why it is no longer the file that its path leads to; empty while it is
    replaced: str
    json: Json

    @classmethod
    def from_json(cls, value: object) -> FileAnswer:
        fields = Fields(value, "a file")
        return cls(
            path=fields.text("path"),
            mode=fields.text("mode"),
            role=fields.text("role"),
            guard=fields.text("guard"),
            ranges=fields.text("ranges"),
            inode=fields.whole("inode"),
            through=fields.text("through", ""),
            process=fields.text("process", ""),
            unpinned_reason=fields.text("weaker", ""),
            conflict=fields.text("conflict", ""),
            replaced=fields.text("replaced", ""),
            json=fields.json,
        )


@dataclass(frozen=True)
class ProcessAnswer:
    """A process that does I/O for a VM."""

    pid: int
    name: str

    @classmethod
    def from_json(cls, value: object) -> ProcessAnswer:
        fields = Fields(value, "a process")
        return cls(fields.whole("pid"), fields.text("name"))


@dataclass(frozen=True)
class LockAnswer:
    """What the watchdog knows about the lock of one file."""

    path: str
    #: a word: kept, lost or unknown
    verdict: str
    evidence: str
    #: seconds since the lock was last proven; None when it never was
    kept_age: float | None

    @classmethod
    def from_json(cls, value: object) -> LockAnswer:
        fields = Fields(value, "a lock")
        return cls(
            path=fields.text("path"),
            verdict=fields.text("verdict"),
            evidence=fields.text("evidence"),
            kept_age=fields.number_or_none("kept_age"),
        )


@dataclass(frozen=True)
class WatchAnswer:
    """What the watchdog knows about one VM."""

    stance: str
    #: what the VM needs: ``none``, or a word such as ``at_risk``
    need: str
    why: str
    #: the sentence of the fence under way; empty when there is none
    fence: str
    #: seconds since the oldest lease that the VM depends on was confirmed; None when it never was
    lease_age: float | None
    #: seconds until the VM is frozen if the server stays silent; None when that is not known
    freeze_in: float | None
    locks: tuple[LockAnswer, ...]
    json: Json

    @classmethod
    def from_json(cls, value: object) -> WatchAnswer:
        fields = Fields(value, "the watch of a VM")
        return cls(
            stance=fields.text("stance"),
            need=fields.text("need"),
            why=fields.text("why"),
            fence=fields.text("fence"),
            lease_age=fields.number_or_none("lease_age"),
            freeze_in=fields.number_or_none("freeze_in"),
            locks=fields.objects("locks", LockAnswer.from_json),
            json=fields.json,
        )


@dataclass(frozen=True)
class VmAnswer:
    """One VM that this host guards."""

    name: str
    uuid: str
    hypervisor: str
    #: the state of its claim
    state: str
    why: str
    #: UTC, ISO
    claimed: str
    #: of its QEMU; 0 while there is none
    pid: int
    frozen: bool
    #: why it is being fenced; empty while it is not
    fencing: str
    #: why it was frozen over a conflict; empty when it was not
    stopped: str
    #: the host that it is migrating from; empty when it is not
    incoming: str
    processes: tuple[ProcessAnswer, ...]
    files: tuple[FileAnswer, ...]
    #: None while it is not watched, and in a state file
    watch: WatchAnswer | None
    json: Json

    @classmethod
    def from_json(cls, value: object) -> VmAnswer:
        fields = Fields(value, "a VM")
        return cls(
            name=fields.text("name"),
            uuid=fields.text("uuid"),
            hypervisor=fields.text("hypervisor"),
            state=fields.text("state"),
            why=fields.text("why", ""),
            claimed=fields.text("claimed", ""),
            pid=fields.whole("pid", 0),
            frozen=fields.flag("frozen"),
            fencing=fields.text("fencing", ""),
            stopped=fields.text("stopped", ""),
            incoming=fields.text("incoming", ""),
            processes=fields.objects("processes", ProcessAnswer.from_json),
            files=fields.objects("files", FileAnswer.from_json),
            watch=fields.object_or_none("watch", WatchAnswer.from_json),
            json=fields.json,
        )


@dataclass(frozen=True)
class AdoptAnswer:
    """What became of one VM that was to be adopted."""

    vm: VmAnswer
    #: a word: adopted, guarded, conflict, pending, would-adopt, nothing or gone
    result: str

    @classmethod
    def from_json(cls, value: object) -> AdoptAnswer:
        return cls(VmAnswer.from_json(value), Fields(value, "a VM").text("result"))

    @property
    def has_no_lock(self) -> bool:
        """Whether a lock that was tried for is missing: somebody else has it, or the storage has not answered."""
        return self.result in ("conflict", "pending")


# -- the daemon and its watchdog ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PingAnswer:
    """The daemon itself."""

    version: str
    pid: int

    @classmethod
    def from_json(cls, value: object) -> PingAnswer:
        fields = Fields(value, "a ping")
        return cls(fields.text("version"), fields.whole("pid"))


@dataclass(frozen=True)
class MountAnswer:
    """The lease of one mount."""

    mount: str
    source: str
    phase: str
    #: how its locks are probed: ``SEEK``, ``READ (the server has no SEEK)``; empty: not known yet
    probes: str
    #: the server's lease, in seconds
    lease: float
    #: seconds, as in WatchAnswer
    lease_age: float | None
    freeze_in: float | None
    #: how many locks are watched, how many await an answer, how many are proven lost
    locks: int
    unsure: int
    lost: int
    json: Json

    @classmethod
    def from_json(cls, value: object) -> MountAnswer:
        fields = Fields(value, "a mount")
        return cls(
            mount=fields.text("mount"),
            source=fields.text("source"),
            phase=fields.text("phase"),
            probes=fields.text("probes", ""),
            lease=fields.number("lease"),
            lease_age=fields.number_or_none("lease_age"),
            freeze_in=fields.number_or_none("freeze_in"),
            locks=fields.whole("locks"),
            unsure=fields.whole("unsure"),
            lost=fields.whole("lost"),
            json=fields.json,
        )


@dataclass(frozen=True)
class FenceAnswer:
    """A fence under way, with its step as a sentence."""

    name: str
    sentence: str

    @classmethod
    def from_json(cls, value: object) -> FenceAnswer:
        fields = Fields(value, "a fence")
        return cls(fields.text("name"), fields.text("sentence"))


@dataclass(frozen=True)
class DisarmedAnswer:
    """The watchdog reports only: for how many more seconds, since when, why, and by whose order."""

    seconds: float
    since: str
    reason: str
    by: str
    json: Json = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: object) -> DisarmedAnswer:
        fields = Fields(value, "the disarming")
        return cls(
            seconds=fields.number("seconds"),
            since=fields.text("since"),
            reason=fields.text("reason"),
            by=fields.text("by"),
            json=fields.json,
        )

    @property
    def sentence(self) -> str:
        """Say for how long, by whom and why; for people."""
        return f"DISARMED for {self.seconds:.0f} s more, by {self.by}: {self.reason}"


@dataclass(frozen=True)
class DisarmAnswer:
    """The daemon's answer to ``disarm``."""

    disarmed: DisarmedAnswer | None
    survives_restart: bool

    @classmethod
    def from_json(cls, value: object) -> DisarmAnswer:
        fields = Fields(value, "the answer to disarm")
        disarmed = fields.object_or_none("disarmed", DisarmedAnswer.from_json)
        return cls(disarmed, fields.flag("survives_restart"))


@dataclass(frozen=True)
class DescriptorsAnswer:
    """How many file descriptors the daemon has open, how many it may have, and whether that is nearly all."""

    used: int
    limit: int
    alarm: bool

    @classmethod
    def from_json(cls, value: object) -> DescriptorsAnswer:
        fields = Fields(value, "the daemon's file descriptors")
        return cls(fields.whole("used"), fields.whole("limit"), fields.flag("alarm"))

    @property
    def sentence(self) -> str:
        return f"the daemon has {self.used} of {self.limit} file descriptors in use; without one no VM can be started"


@dataclass(frozen=True)
class HealthAnswer:
    """The leases of all mounts, the fences under way, whether the watchdog is disarmed, and the descriptors in use."""

    mounts: tuple[MountAnswer, ...] = ()
    fences: tuple[FenceAnswer, ...] = ()
    disarmed: DisarmedAnswer | None = None
    #: None: a daemon of an older version does not tell
    descriptors: DescriptorsAnswer | None = None

    @classmethod
    def from_json(cls, value: object) -> HealthAnswer:
        fields = Fields(value, "the health")
        return cls(
            mounts=fields.objects("mounts", MountAnswer.from_json),
            fences=fields.objects("fences", FenceAnswer.from_json),
            disarmed=fields.object_or_none("disarmed", DisarmedAnswer.from_json),
            descriptors=fields.object_or_none("descriptors", DescriptorsAnswer.from_json),
        )


# -- the share ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LockOnShare:
    """What stands in the way of one file's lock, and its owner record."""

    conflict: bool
    owner: Owner | None
    #: why the owner record could not be read; empty when it could
    record_problem: str
    #: processes of this host that have it locked, as ``qemu-img (pid 12)``
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
