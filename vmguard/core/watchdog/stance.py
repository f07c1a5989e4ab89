"""What becomes of a VM, given what is known of all its locks on all its mounts: pure.

A VM's need is that of its worst lock. The admin's policy turns the need into a stance, and a stance is reached by
actions. ``stance`` is what was decided, ``real`` what was done: the two differ under ``log_only`` and while disarmed,
when everything is decided and reported and nothing is done.

============ ========================================================== ====================================
need         when                                                       measure
============ ========================================================== ====================================
NONE         every lock stands                                          run; thaw once all are proven KEPT
UNSURE       the server answers, but not (yet) for one of the locks     freeze (not with on_at_risk: ignore)
AT_RISK      a mount's lease can end before the VM would stand still    on_at_risk
LOST         a lock is proven lost                                      on_lost
============ ========================================================== ====================================

A thaw needs more than the absence of a need: each lock was asked after its last doubt and answered. It happens also
while disarmed: a VM whose locks are proven needs nobody's permission to go on. A fence is never taken back.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmguard.core.watchdog.events import (
    Act,
    Cause,
    Effect,
    Fence,
    Freeze,
    Level,
    OnAtRisk,
    OnLost,
    Policy,
    Reclaim,
    Report,
    Thaw,
    Verdict,
    VmInfo,
)
from vmguard.core.watchdog.lease import Mount
from vmguard.core.watchdog.states import DANGER, Lock, Phase

#: a lock that is lost again after this many times of locking it anew is lost
_RECLAIMS = 3


class Need(enum.IntEnum):
    NONE = 0
    UNSURE = 1
    AT_RISK = 2
    LOST = 3


class Stance(enum.StrEnum):
    RUNNING = "running"
    FROZEN = "frozen"
    RECLAIMING = "reclaiming"
    FENCING = "fencing"


MOVES: dict[Stance, frozenset[Stance]] = {
    Stance.RUNNING: frozenset({Stance.FROZEN, Stance.FENCING}),
    Stance.FROZEN: frozenset({Stance.RUNNING, Stance.RECLAIMING, Stance.FENCING}),
    Stance.RECLAIMING: frozenset({Stance.FROZEN, Stance.FENCING}),
    Stance.FENCING: frozenset(),
}


class Measure(enum.StrEnum):
    """What the policy makes of a need."""

    NOTHING = "nothing"
    FREEZE = "freeze"
    FENCE = "fence"
    RECLAIM = "reclaim"


_AT_RISK = {OnAtRisk.FREEZE: Measure.FREEZE, OnAtRisk.FENCE: Measure.FENCE, OnAtRisk.IGNORE: Measure.NOTHING}
_LOST = {
    OnLost.FENCE: Measure.FENCE,
    OnLost.FREEZE: Measure.FREEZE,
    OnLost.IGNORE: Measure.NOTHING,
    OnLost.RECLAIM: Measure.RECLAIM,
}


def measure(need: Need, policy: Policy) -> Measure:
    """The policy's measure for a need."""
    if need is Need.LOST:
        return _LOST[policy.on_lost]
    if need is Need.AT_RISK:
        return _AT_RISK[policy.on_at_risk]
    if need is Need.UNSURE and policy.on_at_risk is not OnAtRisk.IGNORE:
        return Measure.FREEZE
    return Measure.NOTHING


@dataclass(frozen=True)
class Case:
    """What is known about one VM now."""

    need: Need
    why: str
    #: the lock that decides
    lock: Lock | None
    #: every lock is proven kept since its last doubt, on a mount that answers
    proven: bool


def case(locks: list[tuple[Lock, Mount]]) -> Case:
    """Weigh all locks of one VM."""
    worst = Case(Need.NONE, "every lock stands", None, True)
    proven = True
    for lock, mount in locks:
        need, why = _need(lock, mount)
        proven = proven and need is Need.NONE and lock.verdict is Verdict.KEPT
        if need > worst.need:
            worst = Case(need, why, lock, False)
    return Case(worst.need, worst.why, worst.lock, proven)


def _need(lock: Lock, mount: Mount) -> tuple[Need, str]:
    if lock.lost:
        return Need.LOST, f"the lock on {lock.info.path} is lost ({lock.evidence})"
    if mount.phase in DANGER:
        return Need.AT_RISK, f"{mount.name} has answered nothing sent in the last {mount.age:.1f} s"
    if lock.alarming or (mount.phase is Phase.RECOVERING and lock.doubt is not None):
        return Need.UNSURE, f"whether the lock on {lock.info.path} still stands is not known ({lock.evidence})"
    return Need.NONE, ""


@dataclass
class Vm:
    """One VM's stance. ``effects`` collects what has to be reported and done, in that order."""

    info: VmInfo
    stance: Stance = Stance.RUNNING
    real: Stance = Stance.RUNNING
    need: Need = Need.NONE
    why: str = ""
    #: since when the stance is what it is
    since: float = 0.0
    #: an action that is not proven yet, and when it is ordered again
    pending: Act | None = None
    again: float = math.inf
    failures: int = 0
    reclaims: int = 0
    remind_at: float = math.inf
    #: a need that the policy ignores, and that was reported
    ignored: Need = Need.NONE
    effects: list[Effect] = field(default_factory=list)

    def move(self, new: Stance, now: float, acts: bool) -> None:
        """The only writer of ``stance``. Raises ValueError when MOVES does not allow it."""
        if new not in MOVES[self.stance]:
            raise ValueError(f"{self.info.title} cannot go from {self.stance} to {new}")
        self.stance, self.since = new, now
        if acts:
            self.real = new
        self.pending, self.again, self.failures = None, math.inf, 0

    def back_to_what_is(self, now: float) -> None:
        """What was only decided is decided again: the watchdog is armed again, or the policy has changed."""
        if self.stance is not self.real:
            self.stance, self.since, self.ignored = self.real, now, Need.NONE
            self.remind_at = now if self.real is Stance.FROZEN else math.inf

    def due(self) -> float:
        return min(self.again, self.remind_at)


@dataclass(frozen=True)
class Circumstances:
    """What else counts when a VM is resolved."""

    now: float
    #: why nothing may be done to any VM, empty when it may
    disarmed: str
    remind: float
    proof: float


def resolve(vm: Vm, found: Case, around: Circumstances) -> None:
    """Bring the VM's stance in line with its case."""
    if vm.stance is Stance.FENCING:
        return
    wanted = measure(found.need, vm.info.policy)
    newly_lost = found.need is Need.LOST and vm.need is not Need.LOST
    vm.need, vm.why = found.need, found.why
    if newly_lost and wanted is Measure.FREEZE:
        text = f"stays frozen for good: {found.why}; left open, that lock can come back at the next storage reboot"
        _say(vm, Level.ERROR, "vm.lost-only-frozen", f"{text} and rob its new owner: end the VM", around, found)
    if found.need is not Need.NONE and wanted is Measure.NOTHING:
        _ignore(vm, found, around)
        return
    if found.need is Need.NONE and vm.ignored is not Need.NONE:
        vm.ignored = Need.NONE
        _say(vm, Level.INFO, "vm.fine-again", "every lock stands again", around, found)
    if wanted is Measure.FENCE:
        _fence(vm, found, around)
    elif wanted in (Measure.FREEZE, Measure.RECLAIM) and vm.stance is Stance.RUNNING:
        _freeze(vm, found, around)
    elif wanted is Measure.RECLAIM and vm.stance is Stance.FROZEN and vm.pending is None:
        _reclaim(vm, found, around)
    elif vm.stance is Stance.FROZEN and found.proven:
        _thaw(vm, found, around)


def overdue(vm: Vm, found: Case, around: Circumstances) -> None:
    """An action is not proven in time, or it is time to remind people of a VM that stays frozen."""
    if around.now >= vm.again and vm.pending is not None:
        failed(vm, found, around, "no proof of it within its time")
    if around.now >= vm.remind_at and vm.stance is Stance.FROZEN:
        vm.remind_at = around.now + around.remind
        _say(vm, Level.WARNING, "vm.still-frozen", f"still frozen: {found.why}", around, found)


def failed(vm: Vm, found: Case, around: Circumstances, detail: str) -> None:
    """A freeze or thaw was not proven: say so once, go on trying."""
    if vm.pending is None:
        return
    vm.again = around.now + around.proof
    if vm.pending is Act.THAW and not found.proven:
        return  # a doubt has come up since: it will be frozen, or proven again
    vm.failures += 1
    if vm.failures == 1:
        word = "stopped" if vm.pending is Act.FREEZE else "continued"
        _say(vm, Level.ERROR, f"vm.{vm.pending}-failed", f"could not be {word}: {detail}; trying again", around, found)
    vm.effects.append(Freeze(vm.info.id) if vm.pending is Act.FREEZE else Thaw(vm.info.id))


def _ignore(vm: Vm, found: Case, around: Circumstances) -> None:
    if vm.stance is Stance.FROZEN:
        return  # a policy that became milder, or on_lost: ignore after a freeze: nothing thaws without proof
    if vm.ignored is not found.need:
        vm.ignored = found.need
        _say(vm, Level.ERROR, "vm.ignored", f"UNGUARDED by policy, nothing is done: {found.why}", around, found)


def _acts(vm: Vm, around: Circumstances) -> bool:
    return not around.disarmed and not vm.info.policy.log_only


def _freeze(vm: Vm, found: Case, around: Circumstances) -> None:
    if not vm.info.process:
        return
    acts = _acts(vm, around)
    _say(vm, Level.WARNING, "vm.freeze", f"{_will(acts)} frozen: {found.why}", around, found)
    if found.lock is not None and not found.lock.info.pinned:
        path = found.lock.info.path
        _say(vm, Level.WARNING, "vm.not-pinned", f"not pinned: what it has queued for {path} can land", around, found)
    vm.move(Stance.FROZEN, around.now, acts)
    vm.remind_at = around.now + around.remind
    if acts:
        vm.pending, vm.again = Act.FREEZE, around.now + around.proof
        vm.effects.append(Freeze(vm.info.id))


def _thaw(vm: Vm, found: Case, around: Circumstances) -> None:
    acts = vm.real is Stance.FROZEN
    held = around.now - vm.since
    text = f"thawed after {held:.1f} s: every lock is proven kept"
    _say(vm, Level.INFO, "vm.thaw", text if acts else f"would be {text}", around, found)
    vm.move(Stance.RUNNING, around.now, acts)
    vm.remind_at = math.inf
    if acts:
        vm.pending, vm.again = Act.THAW, around.now + around.proof
        vm.effects.append(Thaw(vm.info.id))


def _reclaim(vm: Vm, found: Case, around: Circumstances) -> None:
    vm.reclaims += 1
    if vm.reclaims > _RECLAIMS:
        _fence(vm, found, around)
        return
    acts = _acts(vm, around)
    text = f"{_will(acts)} locked anew if nobody claimed its disks in between: {found.why}"
    _say(vm, Level.WARNING, "vm.reclaim", text, around, found)
    vm.move(Stance.RECLAIMING, around.now, acts)
    vm.remind_at = math.inf
    if acts:
        vm.effects.append(Reclaim(vm.info.id, tuple(lock.id for lock in vm.info.locks)))


def _fence(vm: Vm, found: Case, around: Circumstances) -> None:
    if vm.stance is Stance.RECLAIMING or not (vm.info.process or found.need is Need.LOST):
        return  # Reclaimed will decide; a claim without a QEMU does no harm
    acts = _acts(vm, around)
    lost = found.need is Need.LOST
    why = found.why if lost else f"policy on_at_risk: fence, {found.why}"
    _say(vm, Level.ERROR, "vm.fence", f"{_will(acts)} fenced (killed): {why}", around, found)
    fence(vm, why, Cause.LOST if lost else Cause.POLICY, around.now, acts)


def fence(vm: Vm, evidence: str, cause: Cause, now: float, acts: bool) -> None:
    vm.move(Stance.FENCING, now, acts)
    vm.remind_at = math.inf
    if acts:
        vm.effects.append(Fence(vm.info.id, evidence, cause))


def reclaimed(vm: Vm, ok: bool, evidence: str, around: Circumstances) -> None:
    """A Reclaim came back: asked once more and then thawed, or fenced."""
    acts = _acts(vm, around)
    nobody = Case(vm.need, vm.why, None, False)
    if ok:
        vm.move(Stance.FROZEN, around.now, True)
        vm.remind_at = around.now + around.remind
        _say(vm, Level.WARNING, "vm.reclaimed", f"locked anew: {evidence}; asking its locks", around, nobody)
        return
    _say(
        vm, Level.ERROR, "vm.fence", f"{_will(acts)} fenced (killed): cannot be locked anew, {evidence}", around, nobody
    )
    fence(vm, f"{vm.why}; not locked anew: {evidence}", Cause.NOT_RECLAIMED, around.now, acts)


def _will(acts: bool) -> str:
    return "is" if acts else "WOULD be"


def _say(vm: Vm, level: Level, code: str, text: str, around: Circumstances, found: Case) -> None:
    why_not = around.disarmed or ("log-only" if vm.info.policy.log_only else "")
    fields: Mapping[str, str] = {
        "vm": vm.info.id,
        "stance": str(vm.stance),
        "need": found.need.name.lower(),
        **({"not_done": why_not} if why_not else {}),
        **_about(found.lock),
    }
    note = f" (nothing is done: {why_not})" if why_not and "WOULD" in text else ""
    vm.effects.append(Report(level, code, f"{vm.info.title} {text}{note}", dict(fields)))


def _about(lock: Lock | None) -> dict[str, str]:
    if lock is None:
        return {}
    info = lock.info
    return {"disk": info.path, "mount": info.mount, "verdict": str(lock.verdict), "evidence": lock.evidence}
