"""What the watchdog is told and what it orders: the vocabulary shared by lease.py, verdict.py and watch_machine.py.

Every event carries ``now``, seconds of CLOCK_BOOTTIME. Every effect is a plain order; the list that ``Watch.step``
returns is carried out from its first to its last, so a report always comes before the action that it announces.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

Key = tuple[int, int]


class Verdict(enum.StrEnum):
    """What is known about one lock. UNKNOWN is never read as lost and never as kept."""

    KEPT = "kept"
    LOST = "lost"
    UNKNOWN = "unknown"


class OnAtRisk(enum.StrEnum):
    """What is done with a VM while nobody can know whether its locks still stand."""

    FREEZE = "freeze"
    FENCE = "fence"
    IGNORE = "ignore"


class OnLost(enum.StrEnum):
    """What is done with a VM that has lost a lock."""

    FENCE = "fence"
    FREEZE = "freeze"
    IGNORE = "ignore"
    RECLAIM = "reclaim"


class AfterFence(enum.StrEnum):
    OFF = "off"
    RESTART = "restart"


class HostFence(enum.StrEnum):
    NONE = "none"
    WATCHDOG = "watchdog"


@dataclass(frozen=True)
class Policy:
    """The admin's will for one VM."""

    on_at_risk: OnAtRisk = OnAtRisk.FREEZE
    on_lost: OnLost = OnLost.FENCE
    after_fence: AfterFence = AfterFence.OFF
    host_fence: HostFence = HostFence.NONE
    #: everything is decided and reported, nothing is done
    log_only: bool = False
    #: after a thaw the guest's clock is set through its agent
    set_clock: bool = False


@dataclass(frozen=True, order=True)
class LockId:
    """One lock of one VM: a template shared by two VMs is locked by each through a descriptor of its own."""

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


@dataclass(frozen=True)
class VmInfo:
    """A VM as the registry knows it."""

    id: str
    #: for people: ``VM 'web'``
    title: str
    locks: tuple[LockInfo, ...]
    policy: Policy = Policy()
    #: its QEMU runs; there is nothing to freeze before
    process: bool = True
    #: found stopped by a daemon before this one (its state file says so)
    frozen: bool = False
    #: why a daemon before this one had begun to fence it, empty when it had not
    fencing: str = ""


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
class MountGone:
    now: float
    mount: str


@dataclass(frozen=True)
class Answer:
    """A request through a lock's own descriptor came back; exactly one for each Ask, however late.

    ``sent`` is taken before the system call. ``problem`` is empty for success, else the errno's name.
    """

    now: float
    mount: str
    lock: LockId
    serial: int
    sent: float
    problem: str = ""
    #: whether the error is the server's own (its RPC counter rose): NFS4ERR_IO is no lost lock. None: not known
    from_server: bool | None = None


@dataclass(frozen=True)
class Counters:
    """Of /proc/self/mountstats, read about once for each probe; sums since the mount."""

    now: float
    mount: str
    exchange_id: int
    create_session: int
    reclaim_complete: int = 0
    test_stateid: int = 0


class HintKind(enum.StrEnum):
    #: ``lost N locks``, ``Lock reclaim failed`` and their like: a reason to ask, never a verdict
    KERNEL_LOG = "kernel-log"
    #: a second mount asked the server itself (LOCKT)
    SEEN_UNLOCKED = "seen-unlocked"
    SEEN_LOCKED = "seen-locked"
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
class Reclaimed:
    """A Reclaim ended. ``ok``: locked anew, and the owner records' epochs prove that nobody claimed in between."""

    now: float
    vm: str
    ok: bool
    evidence: str
    #: when the LOCK requests were sent
    granted: float | None = None


Event = (
    Tick
    | MountSeen
    | MountGone
    | Answer
    | Counters
    | Hint
    | VmSeen
    | VmGone
    | WokeUp
    | Disarm
    | Arm
    | Acted
    | Reclaimed
)


# -- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """SEEK_DATA or a small O_DIRECT read through this lock's descriptor; answer with the same serial."""

    lock: LockId
    serial: int


@dataclass(frozen=True)
class Probe:
    """Ask these locks, in a thread that may hang."""

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
    NOT_RECLAIMED = "not-reclaimed"
    #: a daemon before this one had begun it
    RESUMED = "resumed"


@dataclass(frozen=True)
class Fence:
    """Climb the ladder of fence.py; answer with VmGone when it is done."""

    vm: str
    evidence: str
    cause: Cause


@dataclass(frozen=True)
class Reclaim:
    """Unlock and lock again on the VM's own, frozen descriptions; answer with Reclaimed."""

    vm: str
    locks: tuple[LockId, ...]


class Level(enum.StrEnum):
    """A promise: error = a human must look; warning = may lead to that; info = a change of state."""

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


Effect = Probe | Freeze | Thaw | Fence | Reclaim | Report
