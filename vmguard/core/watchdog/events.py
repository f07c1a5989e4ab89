"""Events that the watchdog is told and effects that it orders: the vocabulary of lease.py, stance.py and machine.py.

Every event carries ``now``, seconds of CLOCK_BOOTTIME. Every effect is a plain order. The list that ``Watch.step``
returns is carried out from first to last, so a report always precedes the action that it announces.

How the daemon drives the watchdog (``Watch`` in machine.py is the only object that it talks to)::

    watch = Watch(wishes)
    effects = watch.step(EVENT)       # carry the effects out in their order
    watch.wake_at()                   # step(Tick(now)) is due at that time at the latest; ask again after each step

    MountSeen    before the first VM of a mount, and whenever mountstats shows another lease time
    VmSeen       a VM is claimed, adopted, resumed, pinned, gets or loses a disk, gets its QEMU, changes its policy
    VmGone       its locks are released, or its fence is done
    Answer       for every Ask of a Probe, one, whatever came of it, with the ``sent`` taken just before the call
    Counters     once for each probe interval and mount, from mountstats, also while nothing is asked
    Hint         kernel log, QEMU's I/O errors
    WokeUp       CLOCK_BOOTTIME ran ahead of CLOCK_MONOTONIC (suspended); standing still is noticed here, too
    Acted        what came of a Freeze or Thaw
    RivalMet     a lock that a VM needs was refused; VmSeen with the rival comes before
    StartRefused a QEMU runs that must not
    Adopted      a person lets a VM go on after a conflict

A mount stands for one client identity on one server: superblocks that share the NFS client share its lease. Only mounts
with a lease are told; local file systems have nothing to watch.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from vmguard.core.watchdog.policy import Policy, Stake

Key = tuple[int, int]


class Verdict(enum.StrEnum):
    """What is known about one lock. UNKNOWN is never read as lost and never as kept."""

    KEPT = "kept"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, order=True)
class LockId:
    """One lock of one VM. Two VMs that share a template lock it through a descriptor each."""

    vm: str
    key: Key


@dataclass(frozen=True)
class LockInfo:
    """A lock as the registry knows it."""

    id: LockId
    #: the name of its mount, as in MountSeen
    mount: str
    path: str
    #: on the description that does the I/O; else only held beside it
    pinned: bool = True
    #: when the LOCK request that got it was sent, None when another daemon got it
    granted: float | None = None
    #: changes with the description that carries the lock: an answer through another one says nothing
    through: str = ""
    #: its claim's epoch in the disk's owner record; None: there is no record, and so no fencing token
    epoch: int | None = None
    stake: Stake = Stake.VITAL


@dataclass(frozen=True)
class Rival:
    """A file that a VM writes to although its lock belongs to somebody else."""

    path: str
    #: for people: ``locked by another host``
    holder: str


@dataclass(frozen=True)
class VmInfo:
    """A VM as the registry knows it."""

    id: str
    #: for people: ``VM 'web'``
    title: str
    locks: tuple[LockInfo, ...]
    policy: Policy = field(default_factory=Policy)
    #: its QEMU runs; without one there is nothing to freeze
    process: bool = True
    #: an earlier daemon froze it (its state file says so)
    frozen: bool = False
    #: why an earlier daemon began to fence it, empty when none did
    fencing: str = ""
    #: its files in conflict
    rivals: tuple[Rival, ...] = ()
    #: an earlier daemon froze it over a conflict: only a person lets it go on
    held: bool = False


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed; due at ``Watch.wake_at()`` at the latest."""

    now: float


@dataclass(frozen=True)
class MountSeen:
    """A mount and the server's lease time; told again whenever mountstats shows another lease time."""

    now: float
    mount: str
    lease: float
    #: from the state file of a daemon before this one in the same boot
    confirmed: float | None = None


@dataclass(frozen=True)
class Token:
    """The newest claim in a disk's owner record, as its server has it."""

    #: None: there is no record (any more)
    epoch: int | None = None
    #: who wrote it, for people
    owner: str = ""
    #: the errno's name when the record could not be read
    problem: str = ""


@dataclass(frozen=True)
class Answer:
    """A request through a lock's own descriptor came back; exactly one for each Ask, however late.

    ``sent`` is taken before the system call. ``problem``: the errno's name, empty if the server honours the lock.
    """

    now: float
    mount: str
    lock: LockId
    serial: int
    sent: float
    problem: str = ""
    #: whether a request is proven to have been answered by the server, well or not: that renews the lease. An error
    #: that is the server's own (NFS4ERR_IO) is no lost lock
    reached: bool = False
    #: False: nothing could be asked about this lock, and ``problem`` says why. It says neither kept nor lost
    asked: bool = True
    #: how this mount's locks are probed, for people: ``READ (the server has no SEEK)``; empty: not told
    kind: str = ""
    #: what the owner record said behind the answer, where it was asked for
    token: Token | None = None


@dataclass(frozen=True)
class Counters:
    """Of /proc/self/mountstats, read about once for each probe; sums since the mount."""

    now: float
    mount: str
    exchange_id: int
    create_session: int
    reclaim_complete: int = 0
    test_stateid: int = 0
    #: connections made to the server
    connects: int = 0


class HintKind(enum.StrEnum):
    #: ``lost N locks``, ``Lock reclaim failed`` and their like: a reason to ask, never a verdict
    KERNEL_LOG = "kernel-log"
    #: QEMU reported an I/O error, a person asks for a check
    OTHER = "other"


@dataclass(frozen=True)
class Hint:
    now: float
    mount: str
    kind: HintKind
    text: str
    lock: LockId | None = None


@dataclass(frozen=True)
class VmSeen:
    """A VM is new, or something about it has changed: the whole of it is told again."""

    now: float
    vm: VmInfo


@dataclass(frozen=True)
class VmGone:
    """Stopped and released, or fenced to the end."""

    now: float
    vm: str


@dataclass(frozen=True)
class WokeUp:
    """The host was suspended or the daemon stood still: all that was believed is stale."""

    now: float
    gap: float
    why: str


@dataclass(frozen=True)
class Disarm:
    now: float
    until: float
    reason: str


@dataclass(frozen=True)
class Arm:
    now: float
    reason: str


class Act(enum.StrEnum):
    FREEZE = "freeze"
    THAW = "thaw"


@dataclass(frozen=True)
class Acted:
    """A Freeze or Thaw was carried out (``ok``: proven by the state of every thread), or failed."""

    now: float
    vm: str
    act: Act
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class RivalMet:
    """A lock that the VM needs was refused just now because of a rival; ``VmSeen`` with that rival came before."""

    now: float
    vm: str
    rival: Rival


@dataclass(frozen=True)
class StartRefused:
    """A QEMU started that must not run: its hook let it in as a migration, and it boots anew."""

    now: float
    vm: str
    why: str


@dataclass(frozen=True)
class Adopted:
    """A person wants a VM that stands still over a conflict to go on."""

    now: float
    vm: str


Event = (
    Tick
    | MountSeen
    | Answer
    | Counters
    | Hint
    | VmSeen
    | VmGone
    | WokeUp
    | Disarm
    | Arm
    | Acted
    | RivalMet
    | StartRefused
    | Adopted
)


# -- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """Probe this lock by I/O through its descriptor (lock_probe.py); answer with the same serial."""

    lock: LockId
    serial: int
    #: read the newest epoch of the owner record, too, once the probe is answered
    token: bool = False


@dataclass(frozen=True)
class Probe:
    """Probe these locks, in threads that may hang."""

    mount: str
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Freeze:
    """SIGSTOP by pidfd to QEMU and its helpers, then prove it; answer with Acted."""

    vm: str


@dataclass(frozen=True)
class Thaw:
    """SIGCONT, helpers first; answer with Acted."""

    vm: str


class Cause(enum.StrEnum):
    """Why a VM is fenced. There is no other reason."""

    LOST = "lost"
    #: ``on_at_risk: fence``: without proof that a lock is lost
    POLICY = "policy"
    #: somebody else has the lock of a disk that it writes to
    CONFLICT = "conflict"
    #: it must not have started
    REFUSED = "refused"
    #: an earlier daemon began it
    RESUMED = "resumed"


@dataclass(frozen=True)
class Fence:
    """Climb the fence ladder (fence_ladder.py); answer with VmGone when it is done."""

    vm: str
    evidence: str
    cause: Cause


@dataclass(frozen=True)
class Hold:
    """Remember that only a person lets this VM go on: its disks may have changed under it."""

    vm: str
    why: str


@dataclass(frozen=True)
class Unhold:
    """The VM's conflict is over: forget ``Hold``, if there was one."""

    vm: str


@dataclass(frozen=True)
class Relock:
    """Unlock this lost lock and lock it again on the same description, which answers I/O with EIO until then."""

    vm: str
    key: Key


@dataclass(frozen=True)
class TryLocks:
    """Try the VM's missing locks once more, at once; a rival that is still there is told by RivalMet."""

    vm: str


class Level(enum.StrEnum):
    """What a level promises: error, a human must look; warning, it may come to that; info, a change of state."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Report:
    """One line for the journal, for ``vmguard history`` and for the admin's command."""

    level: Level
    #: stable for programs: ``mount.late``, ``vm.freeze``
    code: str
    sentence: str
    fields: dict[str, str] = field(default_factory=dict)


Effect = Probe | Freeze | Thaw | Fence | Hold | Unhold | TryLocks | Relock | Report
