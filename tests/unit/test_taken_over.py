"""A daemon that takes over right behind an outage: the lease is fresh, and nobody has read the owner record yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmguard.core.watchdog.events import (
    Answer,
    Ask,
    Disarm,
    Effect,
    Fence,
    LockId,
    LockInfo,
    MountSeen,
    Probe,
    Thaw,
    Tick,
    Token,
    VmInfo,
    VmSeen,
)
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.policy import OnAtRisk, Policy

NOW = 100.0
LOCK = LockId("web", (1, 2))
FROZEN = VmInfo("web", "VM 'web'", (LockInfo(LOCK, "/srv/vm", "/srv/vm/web.raw", granted=None, epoch=1),), frozen=True)


def taken_over(vm: VmInfo, disarmed: bool = False) -> tuple[Watch, Ask]:
    """Return a new daemon's watch, and its first request: the lease was confirmed half a second ago."""
    watch = Watch()
    if disarmed:
        watch.step(Disarm(NOW, NOW + 600, "maintenance"))
    watch.step(MountSeen(NOW, "/srv/vm", 10, confirmed=NOW - 0.5))
    effects = watch.step(VmSeen(NOW, vm)) + watch.step(Tick(NOW + 0.5))
    (probe,) = [effect for effect in effects if isinstance(effect, Probe)]
    return watch, probe.asks[0]


def answer(watch: Watch, ask: Ask, newest: int | None) -> list[Effect]:
    token = Token(newest, "hyp-b") if newest is not None else None
    return watch.step(Answer(NOW + 0.6, "/srv/vm", LOCK, ask.serial, NOW + 0.5, reached=True, token=token))


def test_a_frozen_vm_is_not_thawed_by_a_fresh_lease_alone() -> None:
    watch, ask = taken_over(FROZEN)
    assert ask.token
    effects = answer(watch, ask, newest=2)
    assert [type(effect) for effect in effects if isinstance(effect, Fence | Thaw)] == [Fence]


def test_a_frozen_vm_whose_record_is_still_ours_goes_on() -> None:
    watch, ask = taken_over(FROZEN)
    assert any(isinstance(effect, Thaw) for effect in answer(watch, ask, newest=1))


def test_an_answer_without_the_record_leaves_it_frozen() -> None:
    watch, ask = taken_over(FROZEN)
    assert not any(isinstance(effect, Thaw) for effect in answer(watch, ask, newest=None))


@pytest.mark.parametrize("policy", [Policy(log_only=True), Policy(on_at_risk=OnAtRisk.IGNORE)])
def test_a_vm_that_no_outage_would_have_frozen_is_asked_by_its_record_too(policy: Policy) -> None:
    assert taken_over(replace(FROZEN, frozen=False, policy=policy))[1].token


def test_while_disarmed_every_record_is_read() -> None:
    assert taken_over(replace(FROZEN, frozen=False), disarmed=True)[1].token


def test_negative_control_a_vm_that_runs_on_a_fresh_lease_needs_no_record() -> None:
    watch, ask = taken_over(replace(FROZEN, frozen=False))
    assert not ask.token
    answer(watch, ask, newest=None)
    assert watch.mounts["/srv/vm"].unsure == {}
