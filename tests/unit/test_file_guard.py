"""The state machine of a guarded file: its table, its invariants, and what its events mean."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.file_guards import EVENTS, PIN, guard_in, play
from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.guard_states import LOCKED, MOVES, SENTENCES, ClosingCounter, GuardState, Origin, Pin
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.retry import Retry, RetryAt, RetryNever, RetryNow

S = GuardState

#: what each state must be given
DATA: dict[GuardState, dict[str, Any]] = {
    S.INCOMING: {"descriptor": 3},
    S.HELD: {"descriptor": 3},
    S.PINNED: {"pin": PIN},
    S.CONFLICT: {"rival": "locked by another host"},
}
ALL_MOVES = list(itertools.permutations(S, 2))


# -- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in ALL_MOVES if new not in MOVES[old]])
def test_a_move_that_is_not_in_the_table_is_refused_and_changes_nothing(old: GuardState, new: GuardState) -> None:
    lines: list[str] = []
    guard = guard_in(old, lines)
    before, said = guard.as_json(), list(lines)
    with pytest.raises(ValueError, match=f"cannot go from {old} to {new}"):
        guard.move(new, "a test wants it", **DATA.get(new, {}))
    assert (guard.as_json(), lines) == (before, said)


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in ALL_MOVES if new in MOVES[old]])
def test_a_move_of_the_table_is_made_and_reported_once(old: GuardState, new: GuardState) -> None:
    lines: list[str] = []
    guard = guard_in(old)
    reserved = FileGuard(Origin.RESERVED, lines.append) if S.INCOMING in (old, new) else None
    if reserved is not None:
        if old is S.INCOMING:
            reserved.received(3)
        guard = reserved
    else:
        guard._report = lines.append
    lines.clear()
    guard.move(new, "a test wants it", **DATA.get(new, {}))
    assert lines == [f"{old} => {new}: a test wants it"]
    assert guard.state is new
    guard.check_invariants()


def test_nothing_follows_on_a_release() -> None:
    guard = guard_in(S.RELEASED)
    for state in S:
        with pytest.raises(ValueError):
            guard.move(state, "again", **DATA.get(state, {}))
    assert guard.closed("again") is None


@pytest.mark.parametrize("state", S)
def test_each_state_has_its_moves_and_its_sentence(state: GuardState) -> None:
    assert SENTENCES[state]
    assert MOVES[state] <= set(S) - {state}


@pytest.mark.parametrize(
    ("new", "data", "rule"),
    [
        (S.PINNED, {}, "pinned names its pin"),
        (S.HELD, {}, "held and incoming have a descriptor"),
        (S.HELD, {"descriptor": 3, "pin": PIN}, "only pinned and conflict have a pin"),
        (S.HELD, {"descriptor": 3, "rival": "locked"}, "no other state does"),
        (S.CONFLICT, {}, "conflict names its rival"),
        (S.LOST, {"descriptor": 3}, "have none"),
        (S.INCOMING, {"descriptor": 3}, "incoming is a reservation"),
        (S.OUTGOING, {"rival": "locked"}, "no other state does"),
    ],
)
def test_data_of_another_state_is_refused_and_changes_nothing(new: GuardState, data: dict[str, Any], rule: str) -> None:
    guard = guard_in(S.PENDING)
    before = guard.as_json()
    with pytest.raises(ValueError, match=rule):
        guard.move(new, "a test wants it", **data)
    assert guard.as_json() == before


def test_a_reserved_file_cannot_leave() -> None:
    guard = guard_in(S.INCOMING)
    guard.conflict_with("locked by hyp-a")
    with pytest.raises(ValueError, match="does not leave"):
        guard.left_to_target()


def test_a_broken_invariant_is_named() -> None:
    guard = guard_in(S.PINNED)
    guard._pin = None
    with pytest.raises(ValueError, match="pinned names its pin"):
        guard.check_invariants()


# -- what the events mean -------------------------------------------------------------------------------------------


def test_a_start_from_claim_to_release() -> None:
    lines: list[str] = []
    guard = FileGuard(Origin.EXCLUSIVE_CLAIM, lines.append)
    guard.received(3)
    assert (guard.is_locked, guard.is_in_use, guard.has_copy) == (True, False, False)
    guard.seen_open()
    assert not guard.is_in_use, "QEMU may only probe its format"
    assert guard.pinned_on(PIN, 5, 12.0) == 3
    assert (guard.is_in_use, guard.has_copy, guard.granted) == (True, True, 12.0)
    assert guard.copy_dropped() == 5
    assert (guard.state, guard.has_copy) == (S.PINNED, False)
    guard.copy_taken(6)
    assert guard.closed("QEMU closed it") == 6
    assert lines == [
        "pending => held: handed over by its hook",
        "held => pinned: descriptor 9 of qemu (pid 4711)",
        "pinned => released: QEMU closed it",
    ]


def test_a_migration_seen_from_its_target() -> None:
    guard = guard_in(S.INCOMING)
    assert (guard.retry, guard.is_locked, guard.origin.needs_record) == (RetryNever(), False, True)
    guard.arrived(20.0)
    assert (guard.state, guard.descriptor, guard.granted, guard.retry) == (S.HELD, 3, 20.0, RetryNow())
    assert (guard.origin, guard.is_reserved, guard.origin.needs_record) == (Origin.MIGRATED, False, True)
    assert guard.as_json()["foothold"] is False


def test_a_migration_seen_from_its_source() -> None:
    guard = guard_in(S.PINNED)
    guard.left_to_target()
    guard.not_pinned("left to the host that it migrates to", 100.0)
    assert (guard.state, guard.pin, guard.descriptor, guard.has_copy) == (S.OUTGOING, None, 5, True)
    assert not guard.may_try(SHARED, 99.0)
    assert guard.may_try(EXCLUSIVE, 99.0), "the migration has failed, and the VM writes again"
    guard.not_left_after_all()
    assert (guard.state, guard.has_copy) == (S.HELD, True)
    assert not guard.may_try(EXCLUSIVE, 99.0)


@pytest.mark.parametrize(("origin", "left"), [(Origin.EXCLUSIVE_CLAIM, S.LOST), (Origin.FOUND, S.PENDING)])
def test_a_file_without_a_descriptor_that_was_not_left_after_all(origin: Origin, left: GuardState) -> None:
    guard = FileGuard(origin)
    guard.pinned_on(PIN, None, None)
    guard.left_to_target()
    guard.not_left_after_all()
    assert guard.state is left


def test_a_conflict_keeps_what_is_left_and_a_pin_ends_it() -> None:
    guard = guard_in(S.PINNED)
    guard.not_pinned("locked by another host", 5.0)
    guard.conflict_with("locked by another host")
    assert (guard.pin, guard.descriptor, guard.rival) == (PIN, 5, "locked by another host")
    assert guard.is_locked is False
    guard.conflict_with("locked by VM 'db' of this host")
    assert guard.rival == "locked by VM 'db' of this host"
    assert guard.pinned_on(Pin(4711, 11), 8, 30.0) == 5
    known = guard.as_json()
    assert (known["conflict"], known["weaker"], guard.retry) == ("", "", RetryNow())


def test_where_the_kernel_forbids_the_pin_no_copy_is_claimed() -> None:
    guard = guard_in(S.CONFLICT)
    guard.held_beside(7, "needs CAP_SYS_PTRACE")
    assert (guard.state, guard.rival, guard.has_copy, guard.is_locked) == (S.HELD, None, False, True)


@pytest.mark.parametrize("events", list(itertools.permutations(("seen", "refused"))))
def test_open_and_refused_is_in_use_in_either_order(events: tuple[str, ...]) -> None:
    guard = guard_in(S.HELD)
    for event in events:
        assert not guard.is_in_use
        guard.seen_open() if event == "seen" else guard.not_pinned("locked for reading", 5.0)
    assert guard.is_in_use


def test_a_reason_is_new_once() -> None:
    guard = guard_in(S.HELD)
    assert [guard.not_pinned(reason, 5.0) for reason in ("one", "one", "two")] == [True, False, True]


def test_scans_in_a_row_close_a_file() -> None:
    closing = ClosingCounter()
    seen = []
    for missed in (True, False, True, True):
        closing.scanned(missed)
        seen.append((closing.in_doubt, closing.is_closed))
    assert seen == [(True, False), (False, False), (True, False), (True, True)]


@pytest.mark.parametrize(
    ("retry", "due", "earliest", "latest"),
    [
        (RetryNow(), True, RetryAt(7.0), RetryNow()),
        (RetryAt(5.0), True, RetryAt(7.0), RetryAt(5.0)),
        (RetryAt(9.0), False, RetryAt(9.0), RetryAt(7.0)),
        (RetryNever(), False, RetryNever(), RetryAt(7.0)),
    ],
)
def test_when_to_try_again(retry: Retry, due: bool, earliest: Retry, latest: Retry) -> None:
    assert retry.is_due(7.0) is due
    assert (retry.no_earlier_than(7.0), retry.no_later_than(7.0)) == (earliest, latest)


@pytest.mark.parametrize(
    ("origin", "mode", "writers_share", "shareable"),
    [
        (Origin.EXCLUSIVE_CLAIM, SHARED, True, False),
        (Origin.RECOVERED, SHARED, True, False),
        (Origin.MIGRATED, SHARED, True, False),
        (Origin.SHARED_CLAIM, SHARED, True, True),
        (Origin.SHARED_CLAIM, EXCLUSIVE, True, False),
        (Origin.SHARED_CLAIM, SHARED, False, False),
        (Origin.FOUND, EXCLUSIVE, True, True),
        (Origin.FOUND, EXCLUSIVE, False, False),
        (Origin.SHAREABLE, SHARED, False, True),
    ],
)
def test_who_may_share_a_file_that_is_written(origin: Origin, mode: str, writers_share: bool, shareable: bool) -> None:
    assert FileGuard(origin).is_shareable(mode, writers_share) is shareable


# -- any events in any order ----------------------------------------------------------------------------------------


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(Origin), st.lists(st.sampled_from(sorted(EVENTS)), max_size=25))
def test_no_order_of_events_breaks_an_invariant(origin: Origin, events: list[str]) -> None:
    lines: list[str] = []
    guard = FileGuard(origin, lines.append)
    states = play(guard, events)
    walked = [S.PENDING, *(new for old, new in itertools.pairwise([S.PENDING, *states]) if old is not new)]
    assert lines == [
        f"{old} => {new}: {line.partition(': ')[2]}"
        for (old, new), line in zip(itertools.pairwise(walked), lines, strict=True)
    ]
    assert all(new in MOVES[old] for old, new in itertools.pairwise(walked))
    assert guard.is_locked == (guard.state in LOCKED)
    assert not guard.has_copy or guard.descriptor is not None
    assert not (guard.is_locked and guard.is_reserved)
    assert guard.state is not S.PINNED or guard.is_in_use


@pytest.mark.parametrize("state", S)
def test_every_state_can_be_reached_from_every_origin_that_it_fits(state: GuardState) -> None:
    for origin in Origin:
        found = {S.PENDING}
        front = [[event] for event in EVENTS]
        while front:
            events = front.pop()
            guard = FileGuard(origin)
            before, after = ([S.PENDING, *play(guard, events)])[-2:]
            if after is not before and after not in found:
                found.add(after)
                front += [[*events, event] for event in EVENTS]
        reserved = origin is Origin.RESERVED
        assert (state in found) == (
            (state is not S.INCOMING or reserved) and (state is not S.LOST or not origin.is_found)
        ), (origin, found)
