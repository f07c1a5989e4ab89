"""Guards of files for tests: in any state, by events alone; and all events, to be played in any order."""

from __future__ import annotations

from collections.abc import Callable

from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.guard_states import GuardState, Origin, Pin
from vmguard.core.locks.retry import RetryNever, RetryNow

#: of a QEMU
PIN = Pin(4711, 9, "qemu")
S = GuardState


def guard_in(state: GuardState, lines: list[str] | None = None) -> FileGuard:
    """A guard that has come to a state by events alone."""
    origin = Origin.RESERVED if state is S.INCOMING else Origin.EXCLUSIVE_CLAIM
    guard = FileGuard(origin, (lines if lines is not None else []).append)
    match state:
        case S.INCOMING | S.HELD:
            guard.received(3)
        case S.PINNED:
            guard.pinned_on(PIN, 5, 12.0)
        case S.OUTGOING:
            guard.pinned_on(PIN, None, 12.0)
            guard.left_to_target()
        case S.CONFLICT:
            guard.conflict_with("locked by another host")
        case S.LOST:
            guard.taken_over(None)
        case S.RELEASED:
            guard.closed("it is closed")
    assert guard.state is state
    return guard


#: name: what it does; what it returns is a descriptor that the guard has no more
EVENTS: dict[str, Callable[[FileGuard], object]] = {
    "received": lambda guard: guard.received(3),
    "taken over": lambda guard: guard.taken_over(4),
    "taken over without": lambda guard: guard.taken_over(None),
    "seen": FileGuard.seen_open,
    "pinned": lambda guard: guard.pinned_on(PIN, None, None),
    "pinned with a copy": lambda guard: guard.pinned_on(Pin(4711, 10), 5, 12.0),
    "copied": lambda guard: guard.copy_taken(6),
    "copy dropped": FileGuard.copy_dropped,
    "held": lambda guard: guard.held_beside(7, "forbidden"),
    "arrived": lambda guard: guard.arrived(20.0),
    "left": FileGuard.left_to_target,
    "not left": FileGuard.not_left_after_all,
    "refused": lambda guard: guard.not_pinned("locked for reading by another host", 30.0),
    "conflict": lambda guard: guard.conflict_with("locked by another host"),
    "never": lambda guard: guard.retry_when(RetryNever()),
    "again": lambda guard: guard.retry_when(RetryNow()),
    "closed": lambda guard: guard.closed("it is closed"),
}


def play(guard: FileGuard, events: list[str]) -> list[GuardState]:
    """Play events; return the states, one after each of them.

    An event that cannot happen now must be refused and leave no trace, and no descriptor may be dropped in silence.
    """
    states = []
    for event in events:
        before, descriptor = facts(guard), guard.descriptor
        try:
            returned = EVENTS[event](guard)
        except ValueError:
            assert facts(guard) == before, event
        else:
            assert descriptor in (None, guard.descriptor, returned), event
        guard.check_invariants()
        states.append(guard.state)
    return states


def facts(guard: FileGuard) -> dict[str, object]:
    """Everything that a guard knows."""
    return {name: getattr(guard, name) for name in FileGuard.__slots__}
