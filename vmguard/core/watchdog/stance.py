"""Decide what becomes of a VM, given its case: pure.

Measures (case.py) lead to a stance, and a stance is reached by effects. ``stance`` is the decision, ``real`` what was
done. The two differ under ``log_only`` and while disarmed, when everything is decided and reported and nothing is done.

A thaw takes more than the absence of a need: each lock was probed after its last doubt and answered. A thaw happens
while disarmed, too: a VM whose locks are proven needs nobody's permission to go on. After a conflict only a person lets
a frozen VM go on (``Adopted``), because its disks may have changed under it. A fence is never taken back.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmguard.core.watchdog.case import Case, Measure, Need, measure
from vmguard.core.watchdog.events import (
    Act,
    Cause,
    Effect,
    Fence,
    Freeze,
    Hold,
    Level,
    Report,
    Rival,
    Thaw,
    TryLocks,
    Unhold,
    VmInfo,
)
from vmguard.core.watchdog.states import Lock


class Stance(enum.StrEnum):
    RUNNING = "running"
    FROZEN = "frozen"
    FENCING = "fencing"


MOVES: dict[Stance, frozenset[Stance]] = {
    Stance.RUNNING: frozenset({Stance.FROZEN, Stance.FENCING}),
    Stance.FROZEN: frozenset({Stance.RUNNING, Stance.FENCING}),
    Stance.FENCING: frozenset(),
}


class Conflict(enum.StrEnum):
    """How far a VM's conflict has gone."""

    NONE = "none"
    #: somebody else has one of its disks
    MET = "met"
    #: frozen over it: only a person lets it go on
    HELD = "held"
    #: its grace is over, and its locks are being tried once more
    TRYING = "trying"
    #: its grace is over, and the rival is still there
    OVERDUE = "overdue"
    #: nobody else has its disks any more; a person has to let it go on
    WAITING = "waiting"


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
    #: an effect that is not proven yet, and when it is ordered again
    pending: Act | None = None
    again: float = math.inf
    failures: int = 0
    remind_at: float = math.inf
    #: a need that the policy ignores, and that was reported
    ignored: Need = Need.NONE
    conflict: Conflict = Conflict.NONE
    #: rivals that were reported
    rivals_told: frozenset[Rival] = frozenset()
    #: when the grace of its conflict is over
    grace_ends: float = math.inf
    effects: list[Effect] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether only a person lets it go on."""
        return self.conflict not in (Conflict.NONE, Conflict.MET)

    def move(self, new: Stance, now: float, acts: bool) -> None:
        """Set ``stance``, and ``real`` if it ``acts``. Raises ValueError when MOVES does not allow it."""
        if new not in MOVES[self.stance]:
            raise ValueError(f"{self.info.title} cannot go from {self.stance} to {new}")
        self.stance, self.since = new, now
        if acts:
            self.real = new
        self.pending, self.again, self.failures = None, math.inf, 0

    def back_to_what_is(self, now: float) -> None:
        """Decide again what was only decided: the watchdog is armed again, or the policy has changed."""
        if self.stance is not self.real:
            self.stance, self.since, self.ignored = self.real, now, Need.NONE
            self.remind_at = now if self.real is Stance.FROZEN else math.inf

    def due(self) -> float:
        return min(self.again, self.remind_at, self.grace_ends)


@dataclass(frozen=True)
class Context:
    """What else counts when a VM is resolved."""

    now: float
    #: why nothing may be done to any VM, empty when it may
    disarmed: str
    #: seconds between two reminders of a frozen VM
    remind: float
    #: seconds in which a freeze or thaw must be proven
    proof: float


def resolve(vm: Vm, found: Case, context: Context) -> None:
    """Bring the VM's stance in line with its case."""
    if vm.stance is Stance.FENCING:
        if vm.real is Stance.FENCING or found.need is not Need.NONE:
            return
        vm.back_to_what_is(context.now)  # the fence was only decided, and nothing calls for it any more
    newly_lost = found.need is Need.LOST and vm.need is not Need.LOST
    vm.need, vm.why = found.need, found.why
    _follow_conflict(vm, found, context)
    if newly_lost and found.measure is Measure.FREEZE:
        text = f"stays frozen for good: {found.why}; left open, that lock can come back at the next storage reboot"
        _say(vm, Level.ERROR, "vm.lost-only-frozen", f"{text} and rob its new owner: end the VM", context, found)
    if found.measure is Measure.FENCE:
        _fence(vm, found, context)
    elif found.measure is Measure.FREEZE:
        if vm.stance is Stance.RUNNING:
            _freeze(vm, found, context)
        _hold(vm, found, context)
    elif vm.stance is Stance.FROZEN and found.proven and not vm.held:
        _thaw(vm, found, context)
    if found.need is not Need.NONE and found.measure is Measure.NOTHING:
        _ignore(vm, found, context)
    elif found.need is Need.NONE and vm.ignored is not Need.NONE:
        if vm.ignored is not Need.CONFLICT:  # whose end has a report of its own
            _say(vm, Level.INFO, "vm.fine-again", "every lock stands again", context, found)
        vm.ignored = Need.NONE


def overdue(vm: Vm, found: Case, context: Context) -> None:
    """Handle what the time alone brings: an unproven effect, a reminder, the end of a conflict's grace."""
    if context.now >= vm.again and vm.pending is not None:
        failed(vm, found, context, "no proof of it within its time")
    if context.now >= vm.remind_at and vm.stance is Stance.FROZEN:
        vm.remind_at = context.now + context.remind
        why = found.why if found.need is not Need.NONE or not vm.held else "nobody let it go on after its conflict"
        _say(vm, Level.WARNING, "vm.still-frozen", f"still frozen: {why}", context, found)
    if context.now >= vm.grace_ends:
        _end_grace(vm, context)


def failed(vm: Vm, found: Case, context: Context, detail: str) -> None:
    """Report once that a freeze or thaw was not proven, and order it again."""
    if vm.pending is None:
        return
    vm.again = context.now + context.proof
    if vm.pending is Act.THAW and not found.proven:
        return  # a doubt has come up since: the VM will be frozen, or proven again
    vm.failures += 1
    if vm.failures == 1:
        word = "stopped" if vm.pending is Act.FREEZE else "continued"
        _say(vm, Level.ERROR, f"vm.{vm.pending}-failed", f"could not be {word}: {detail}; trying again", context, found)
    vm.effects.append(Freeze(vm.info.id) if vm.pending is Act.FREEZE else Thaw(vm.info.id))


# -- conflicts --------------------------------------------------------------------------------------------------------


def _follow_conflict(vm: Vm, found: Case, context: Context) -> None:
    """Report each new rival, and the end of a conflict."""
    rivals = frozenset(vm.info.rivals)
    for rival in sorted(rivals - vm.rivals_told, key=lambda rival: rival.path):
        text = f"writes to {rival.path}, which is {rival.holder}: CRITICAL, two may be writing to one disk"
        _say(vm, Level.ERROR, "vm.conflict", text, context, found, disk=rival.path)
    vm.rivals_told = rivals
    if rivals and vm.conflict is Conflict.NONE:
        vm.conflict = Conflict.MET
    elif rivals and vm.conflict is Conflict.WAITING:
        vm.conflict = Conflict.HELD
        _begin_grace(vm, found, context)
    elif not rivals and vm.conflict is Conflict.MET:
        vm.conflict = Conflict.NONE
        _say(vm, Level.WARNING, "vm.conflict-over", "nobody else has its disks any more", context, found)
        vm.effects.append(Unhold(vm.info.id))
    elif not rivals and vm.conflict not in (Conflict.NONE, Conflict.WAITING):
        vm.conflict, vm.grace_ends = Conflict.WAITING, math.inf
        text = "nobody else has its disks any more. It stays frozen, because the disks may have changed under it: "
        _say(vm, Level.ERROR, "vm.conflict-over", text + "vmguard adopt lets it go on, or end it", context, found)


def _hold(vm: Vm, found: Case, context: Context) -> None:
    """Have only a person let the VM go on if it stands still over a conflict; its grace begins."""
    if vm.conflict is not Conflict.MET or vm.real is not Stance.FROZEN:
        return
    if measure(Need.CONFLICT, vm.info.policy) is Measure.NOTHING:
        return  # frozen for another reason: with this policy it goes on without a person
    vm.conflict = Conflict.HELD
    rival = min(vm.info.rivals, key=lambda rival: rival.path)
    vm.effects.append(Hold(vm.info.id, f"it writes to {rival.path}, which is {rival.holder}"))
    _begin_grace(vm, found, context)


def _begin_grace(vm: Vm, found: Case, context: Context) -> None:
    """Count the time after which a VM held over a conflict is fenced, if the policy wants that."""
    grace = vm.info.policy.conflict_grace
    if grace is None:
        return
    vm.grace_ends = context.now + grace
    text = f"is fenced in {grace:.0f} s if its disk is still locked elsewhere then"
    _say(vm, Level.ERROR, "vm.conflict-grace", text, context, found)


def _end_grace(vm: Vm, context: Context) -> None:
    """Try the VM's locks once more before it is fenced: the rival may have ended meanwhile."""
    vm.grace_ends = math.inf
    if vm.conflict is not Conflict.HELD or vm.info.policy.conflict_grace is None:
        return
    if _acts(vm, context):
        vm.conflict = Conflict.TRYING
        vm.effects.append(TryLocks(vm.info.id))
    else:
        vm.grace_ends = context.now + context.remind  # ask again whether something may be done


def meet_again(vm: Vm) -> None:
    """Take in that a lock was refused just now: at the end of its grace that is the VM's end."""
    if vm.conflict is Conflict.TRYING:
        vm.conflict = Conflict.OVERDUE


def let_go_on(vm: Vm, found: Case, context: Context) -> None:
    """Let a VM go on as a person wants, if all its disks are its own."""
    if not vm.held or vm.info.rivals:
        return
    vm.conflict, vm.grace_ends = Conflict.NONE, math.inf
    _say(vm, Level.WARNING, "vm.adopted", "adopted after a conflict: all its disks are its own", context, found)
    vm.effects.append(Unhold(vm.info.id))


def refuse_start(vm: Vm, why: str, found: Case, context: Context) -> None:
    """Fence a VM whose QEMU must not have started."""
    if vm.stance is Stance.FENCING:
        return
    acts = _acts(vm, context)
    _say(vm, Level.ERROR, "vm.fence", f"{_will(acts)} fenced (killed): {why}", context, found)
    fence(vm, why, Cause.REFUSED, context.now, acts)


# -- measures ---------------------------------------------------------------------------------------------------------


def _ignore(vm: Vm, found: Case, context: Context) -> None:
    if vm.stance is Stance.FROZEN:
        return  # a policy that became milder, or on_lost: ignore after a freeze: nothing thaws without proof
    if vm.ignored is not found.need:
        vm.ignored = found.need
        _say(vm, Level.ERROR, "vm.ignored", f"UNGUARDED by policy, nothing is done: {found.why}", context, found)


#: people look at the hypervisor first, and see nothing there
_UNKNOWN_TO_IT = "; its hypervisor goes on calling it running, and a suspend or shutdown there waits"


def _acts(vm: Vm, context: Context) -> bool:
    return not context.disarmed and not vm.info.policy.log_only


def _freeze(vm: Vm, found: Case, context: Context) -> None:
    if not vm.info.process:
        return
    acts = _acts(vm, context)
    _say(vm, Level.WARNING, "vm.freeze", f"{_will(acts)} frozen: {found.why}{_UNKNOWN_TO_IT}", context, found)
    if found.lock is not None and not found.lock.info.pinned:
        path = found.lock.info.path
        _say(vm, Level.WARNING, "vm.not-pinned", f"not pinned: what it has queued for {path} can land", context, found)
    vm.move(Stance.FROZEN, context.now, acts)
    vm.remind_at = context.now + context.remind
    if acts:
        vm.pending, vm.again = Act.FREEZE, context.now + context.proof
        vm.effects.append(Freeze(vm.info.id))


def _thaw(vm: Vm, found: Case, context: Context) -> None:
    acts = vm.real is Stance.FROZEN
    held = context.now - vm.since
    text = f"thawed after {held:.1f} s: every lock is proven kept"
    _say(vm, Level.INFO, "vm.thaw", text if acts else f"would be {text}", context, found)
    vm.move(Stance.RUNNING, context.now, acts)
    vm.remind_at = math.inf
    if acts:
        vm.pending, vm.again = Act.THAW, context.now + context.proof
        vm.effects.append(Thaw(vm.info.id))


_CAUSES = {Need.LOST: Cause.LOST, Need.CONFLICT: Cause.CONFLICT}


def _fence(vm: Vm, found: Case, context: Context) -> None:
    if not (vm.info.process or found.need is Need.LOST):
        return  # a claim without a QEMU does no harm
    acts = _acts(vm, context)
    cause = _CAUSES.get(found.need, Cause.POLICY)
    why = f"policy on_at_risk: fence, {found.why}" if cause is Cause.POLICY else found.why
    _say(vm, Level.ERROR, "vm.fence", f"{_will(acts)} fenced (killed): {why}", context, found)
    fence(vm, why, cause, context.now, acts)


def fence(vm: Vm, evidence: str, cause: Cause, now: float, acts: bool) -> None:
    vm.move(Stance.FENCING, now, acts)
    vm.remind_at = vm.grace_ends = math.inf
    if acts:
        vm.effects.append(Fence(vm.info.id, evidence, cause))


def _will(acts: bool) -> str:
    return "is" if acts else "WOULD be"


def _say(vm: Vm, level: Level, code: str, text: str, context: Context, found: Case, **more: str) -> None:
    why_not = context.disarmed or ("log-only" if vm.info.policy.log_only else "")
    fields: Mapping[str, str] = {
        "vm": vm.info.id,
        "stance": str(vm.stance),
        "need": found.need.name.lower(),
        **({"not_done": why_not} if why_not else {}),
        **_about(found.lock),
        **more,
    }
    note = f" (nothing is done: {why_not})" if why_not and "WOULD" in text else ""
    vm.effects.append(Report(level, code, f"{vm.info.title} {text}{note}", dict(fields)))


def _about(lock: Lock | None) -> dict[str, str]:
    if lock is None:
        return {}
    info = lock.info
    return {"disk": info.path, "mount": info.mount, "verdict": str(lock.verdict), "evidence": lock.evidence}
