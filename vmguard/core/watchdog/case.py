"""Weigh all that is known of one VM's locks and rivals: pure.

A VM's case lists its needs: one for each lock that does not stand, one for each file in conflict. The admin's policy
turns each need into a measure, and the strongest measure counts.

============ ========================================================== ====================================
need         when                                                       measure
============ ========================================================== ====================================
NONE         every lock stands                                          run; thaw once all are proven KEPT
UNSURE       the server answers, but not (yet) for one of the locks     freeze (not with on_at_risk: ignore)
AT_RISK      a mount's lease can end before the VM would stand still    on_at_risk
CONFLICT     it writes to a file whose lock somebody else has           on_conflict, conflict_grace
LOST         a lock is proven lost                                      on_lost
============ ========================================================== ====================================
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.core.watchdog.events import Rival, Verdict
from vmguard.core.watchdog.lease import MountLease
from vmguard.core.watchdog.policy import OnAtRisk, OnConflict, OnLost, Policy, Stake
from vmguard.core.watchdog.states import DANGER, Lock, Phase


class Need(enum.IntEnum):
    NONE = 0
    UNSURE = 1
    AT_RISK = 2
    CONFLICT = 3
    LOST = 4


class Measure(enum.IntEnum):
    """What the policy makes of a need; a higher one is stronger."""

    NOTHING = 0
    FREEZE = 1
    FENCE = 2


_AT_RISK = {OnAtRisk.FREEZE: Measure.FREEZE, OnAtRisk.FENCE: Measure.FENCE, OnAtRisk.IGNORE: Measure.NOTHING}
_LOST = {OnLost.FENCE: Measure.FENCE, OnLost.FREEZE: Measure.FREEZE, OnLost.IGNORE: Measure.NOTHING}
_CONFLICT = {
    OnConflict.FREEZE: Measure.FREEZE,
    OnConflict.FENCE: Measure.FENCE,
    OnConflict.REPORT: Measure.NOTHING,
    OnConflict.IGNORE: Measure.NOTHING,
}


def measure(need: Need, policy: Policy, grace_is_over: bool = False) -> Measure:
    """Return the policy's measure for a need. ``grace_is_over``: a conflict outlasted ``conflict_grace``."""
    match need:
        case Need.NONE:
            return Measure.NOTHING
        case Need.UNSURE:
            return Measure.NOTHING if policy.on_at_risk is OnAtRisk.IGNORE else Measure.FREEZE
        case Need.AT_RISK:
            return _AT_RISK[policy.on_at_risk]
        case Need.CONFLICT:
            return Measure.FENCE if grace_is_over else _CONFLICT[policy.on_conflict]
        case Need.LOST:
            return _LOST[policy.on_lost]


#: the strongest measure that a lock may lead to
_LIMITS = {Stake.VITAL: Measure.FENCE, Stake.BACKING: Measure.FREEZE, Stake.SPARE: Measure.NOTHING}


@dataclass(frozen=True)
class Case:
    """What is known about one VM now."""

    #: the need with the strongest measure, and what the policy makes of it
    need: Need
    measure: Measure
    why: str
    #: the lock that decides, if it is a lock
    lock: Lock | None
    #: every lock is proven kept since its last doubt, on a mount that answers, and no rival stands against it
    proven: bool


def case(
    locks: Sequence[tuple[Lock, MountLease]], rivals: Sequence[Rival], policy: Policy, grace_is_over: bool
) -> Case:
    """Weigh all locks and rivals of one VM. A spare lock has no say: its loss is reported by its mount."""
    worst = Case(Need.NONE, Measure.NOTHING, "every lock stands", None, True)
    proven = not rivals or measure(Need.CONFLICT, policy, grace_is_over) is Measure.NOTHING
    found: list[tuple[Need, str, Lock | None]] = []
    for lock, mount in locks:
        if lock.info.stake is Stake.SPARE:
            continue
        need, why = _need(lock, mount)
        proven = proven and need is Need.NONE and lock.verdict is Verdict.KEPT
        found.append((need, why, lock))
    found += [(Need.CONFLICT, f"it writes to {rival.path}, which is {rival.holder}", None) for rival in rivals]
    for need, why, subject in found:
        strength = measure(need, policy, grace_is_over)
        if subject is not None:
            strength = min(strength, _LIMITS[subject.info.stake])
        if (strength, need) > (worst.measure, worst.need):
            worst = Case(need, strength, why, subject, False)
    return Case(worst.need, worst.measure, worst.why, worst.lock, proven)


def _need(lock: Lock, mount: MountLease) -> tuple[Need, str]:
    if lock.lost:
        return Need.LOST, f"the lock on {lock.info.path} is lost ({lock.evidence})"
    if mount.phase in DANGER:
        return Need.AT_RISK, f"{mount.name} has answered nothing sent in the last {mount.age:.1f} s"
    if lock.alarming or (mount.phase is Phase.RECOVERING and lock.doubt is not None):
        return Need.UNSURE, f"whether the lock on {lock.info.path} still stands is not known ({lock.evidence})"
    return Need.NONE, ""
