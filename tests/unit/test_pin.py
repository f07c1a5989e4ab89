"""The pin: the lock moves to the description that does the I/O, and a rival's 0-EOF claim never gets in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core.locks.pin import Description, Side, Step, Verb, halves, move, wish
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.ranges import LIBVIRT_RANGE, QEMU_RANGE, WHOLE, Range, covers, held_ranges, subtract

LIBVIRT = held_ranges([LIBVIRT_RANGE, QEMU_RANGE])
PIECES = st.sampled_from([LIBVIRT, held_ranges([]), held_ranges([QEMU_RANGE])])


class Locks:
    """The server's lock table for one file, as strict as the kernel's: conflicting requests are refused."""

    def __init__(self) -> None:
        self.exclusive: dict[str, list[Range]] = {}
        self.shared: dict[str, list[Range]] = {}

    def lock(self, who: str, piece: Range, exclusive: bool) -> bool:
        for other, pieces in self.exclusive.items():
            if other != who and overlaps(pieces, piece):
                return False
        for other, pieces in self.shared.items():
            if exclusive and other != who and overlaps(pieces, piece):
                return False
        self.unlock(who, piece)
        (self.exclusive if exclusive else self.shared).setdefault(who, []).append(piece)
        return True

    def unlock(self, who: str, piece: Range) -> None:
        for table in (self.exclusive, self.shared):
            table[who] = subtract(table.get(who, []), piece)

    def rival_gets_in(self) -> bool:
        got = self.lock("rival", WHOLE, True)
        self.unlock("rival", WHOLE)
        return got


def overlaps(pieces: list[Range], piece: Range) -> bool:
    return subtract(pieces, piece) != pieces


def take(locks: Locks, step: Step) -> None:
    who = str(step.side)
    if step.verb is Verb.LOCK:
        assert locks.lock(who, step.byte_range, step.exclusive), f"{step} was refused"
    else:
        locks.unlock(who, step.byte_range)


@pytest.mark.parametrize(
    ("source", "target"), [(EXCLUSIVE, EXCLUSIVE), (EXCLUSIVE, SHARED), (SHARED, SHARED), (SHARED, EXCLUSIVE)]
)
@given(pieces=PIECES)
def test_a_rival_is_refused_before_and_after_every_step(source: str, target: str, pieces: list[Range]) -> None:
    locks = Locks()
    for piece in pieces:
        assert locks.lock("source", piece, source == EXCLUSIVE)
    assert not locks.rival_gets_in()
    for step in move(source, target, pieces):
        take(locks, step)
        assert not locks.rival_gets_in(), f"after {step}"
    assert not locks.exclusive.get("source")
    table = locks.exclusive if target == EXCLUSIVE else locks.shared
    assert all(covers(table["target"], piece) for piece in pieces)


@given(pieces=PIECES, stop=st.integers(0, 12))
def test_a_pin_interrupted_anywhere_is_completed_from_what_proc_shows(pieces: list[Range], stop: int) -> None:
    locks = Locks()
    for piece in pieces:
        locks.lock("source", piece, True)
    for step in move(EXCLUSIVE, EXCLUSIVE, pieces)[:stop]:
        take(locks, step)
    assert not locks.rival_gets_in()
    # the next daemon knows nothing and begins anew with the same two descriptions
    for step in move(EXCLUSIVE, EXCLUSIVE, pieces):
        take(locks, step)
        assert not locks.rival_gets_in()
    assert all(covers(locks.exclusive["target"], piece) for piece in pieces)


def test_negative_control_moving_in_one_step_lets_the_rival_in() -> None:
    locks = Locks()
    locks.lock("source", WHOLE, True)
    locks.unlock("source", WHOLE)
    assert locks.rival_gets_in()


@given(pieces=PIECES)
def test_the_halves_are_the_whole_and_do_not_overlap(pieces: list[Range]) -> None:
    upper, lower = halves(pieces)
    assert upper
    assert lower
    assert all(covers(upper + lower, piece) for piece in pieces)
    assert all(subtract(upper, piece) == upper for piece in lower)


def test_a_new_file_is_locked_on_its_own_description_at_once() -> None:
    assert move(None, SHARED, [WHOLE]) == [Step(Side.TARGET, Verb.LOCK, WHOLE, False)]


def described(fd: int, writable: bool, *locks: tuple[bool, int, int]) -> Description:
    return Description(100, fd, writable, locks)


FULL = tuple((True, start, length) for start, length in LIBVIRT)


def test_a_closed_file_needs_nothing() -> None:
    assert wish([], LIBVIRT) is None


def test_a_file_opened_for_writing_wants_the_exclusive_lock_on_that_description() -> None:
    found = wish([described(9, False), described(12, True)], LIBVIRT)
    assert found is not None
    assert (found.mode, found.target.fd, found.satisfied) == (EXCLUSIVE, 12, False)


def test_while_qemu_has_it_open_twice_the_lock_stays_where_it_is() -> None:
    found = wish([described(9, True), described(12, True, *FULL)], LIBVIRT)
    assert found is not None
    assert (found.target.fd, found.satisfied) == (12, True)


def test_an_interrupted_pin_goes_on_with_the_description_that_has_a_half() -> None:
    found = wish([described(9, True), described(12, True, (True, 300, 0))], LIBVIRT)
    assert found is not None
    assert (found.target.fd, found.satisfied) == (12, False)


def test_a_backing_file_wants_a_shared_lock() -> None:
    found = wish([described(9, False)], LIBVIRT)
    assert found is not None
    assert (found.mode, found.satisfied) == (SHARED, False)
    shared = tuple((False, start, length) for start, length in LIBVIRT)
    again = wish([described(9, False, *shared)], LIBVIRT)
    assert again is not None
    assert again.satisfied
