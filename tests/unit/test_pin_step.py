"""What the pinner does next about one file."""

from __future__ import annotations

import pytest

from tests.support.file_guards import guard_in
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.pin import Description, Wish
from vmguard.core.locks.pin_step import PinStep, needs_frequent_scans, next_full_scan, next_step
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.retry import RetryNever

S = GuardState


def wanted(mode: str = EXCLUSIVE, satisfied: bool = False, fd: int = 9) -> Wish:
    return Wish(mode, Description(4711, fd, mode == EXCLUSIVE), satisfied)


@pytest.mark.parametrize(
    ("state", "wish", "keep", "step"),
    [
        (S.PINNED, wanted(satisfied=True), True, PinStep.WATCH),
        (S.PINNED, wanted(satisfied=True), False, PinStep.DROP_COPY),
        (S.PINNED, wanted(satisfied=False), True, PinStep.PIN),
        (S.PINNED, wanted(satisfied=True, fd=10), True, PinStep.PIN),
        (S.PINNED, wanted(SHARED), True, PinStep.PIN),
        (S.HELD, wanted(), True, PinStep.PIN),
        (S.HELD, wanted(SHARED), True, PinStep.WAIT),
        (S.INCOMING, wanted(), True, PinStep.WAIT),
        (S.LOST, wanted(SHARED), True, PinStep.PIN),
        (S.OUTGOING, wanted(), True, PinStep.PIN),
        (S.CONFLICT, wanted(satisfied=True), True, PinStep.PIN),
    ],
)
def test_the_next_step(state: GuardState, wish: Wish, keep: bool, step: PinStep) -> None:
    assert next_step(guard_in(state), EXCLUSIVE, wish, keep, 1000.0) is step


def test_a_missing_copy_is_fetched_and_a_failed_pin_waits() -> None:
    guard = guard_in(S.PINNED)
    guard.copy_dropped()
    assert next_step(guard, EXCLUSIVE, wanted(satisfied=True), True, 1000.0) is PinStep.PIN
    guard.not_pinned("the storage said no", 1005.0)
    assert next_step(guard, EXCLUSIVE, wanted(satisfied=True), True, 1000.0) is PinStep.WAIT
    assert next_step(guard, EXCLUSIVE, wanted(satisfied=True), False, 1000.0) is PinStep.WATCH


def test_what_must_be_scanned_often() -> None:
    pinned, held = guard_in(S.PINNED), guard_in(S.HELD)
    assert needs_frequent_scans(pinned, EXCLUSIVE, opens_are_told=False, is_written=True)
    assert needs_frequent_scans(held, SHARED, opens_are_told=True, is_written=True)
    assert not needs_frequent_scans(pinned, EXCLUSIVE, opens_are_told=True, is_written=True)
    assert not needs_frequent_scans(held, SHARED, opens_are_told=False, is_written=False)


def test_when_the_next_full_scan_is() -> None:
    calm, failed, frozen = (guard_in(S.HELD) for _ in range(3))
    failed.not_pinned("locked for reading", 1005.0)
    frozen.retry_when(RetryNever())
    frozen.not_pinned("locked by another host", 1005.0)
    assert next_full_scan([], False, 1000.0) == 1060.0
    assert next_full_scan([calm, frozen], False, 1000.0) == 1060.0
    assert next_full_scan([calm, frozen], True, 1000.0) == 1001.0
    assert next_full_scan([calm, failed, frozen], False, 1000.0) == 1005.0
    assert next_full_scan([failed], False, 1005.0) == 1065.0
