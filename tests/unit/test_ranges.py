"""Byte ranges: what a claim holds once the windows of others are free."""

from hypothesis import given
from hypothesis import strategies as st

from vmguard.core.locks.ranges import (
    LIBVIRT_RANGE,
    QEMU_RANGE,
    VIRTLOCKD_RANGE,
    WHOLE,
    Range,
    covers,
    describe,
    held_ranges,
    subtract,
)

PIECES = st.tuples(st.integers(0, 400), st.integers(0, 300))


def contains(piece: Range, byte: int) -> bool:
    return piece[0] <= byte and (piece[1] == 0 or byte < piece[0] + piece[1])


def test_a_claim_on_a_libvirt_host_leaves_byte_1_and_qemus_bytes_free() -> None:
    assert describe(held_ranges([LIBVIRT_RANGE, QEMU_RANGE])) == "0, 2-99, 300-EOF"


def test_with_virtlockd_byte_0_is_free_as_well() -> None:
    assert describe(held_ranges([VIRTLOCKD_RANGE, LIBVIRT_RANGE, QEMU_RANGE])) == "2-99, 300-EOF"


def test_without_windows_everything_to_eof_is_held() -> None:
    assert held_ranges([]) == [WHOLE]
    assert describe([WHOLE]) == "0-EOF"
    assert describe([]) == "none"


def test_qemus_lock_bytes_lie_in_its_window() -> None:
    for base in (100, 200):
        for permission_bit in range(64):
            assert contains(QEMU_RANGE, base + permission_bit)


@given(st.lists(PIECES, max_size=5))
def test_every_byte_is_either_held_or_in_a_window(windows: list[Range]) -> None:
    pieces = held_ranges(windows)
    for byte in [*range(0, 720, 7), 10**12]:
        free = any(contains(window, byte) for window in windows)
        assert any(contains(piece, byte) for piece in pieces) is not free


@given(st.lists(PIECES, max_size=5), PIECES)
def test_subtracting_leaves_nothing_of_the_hole(pieces: list[Range], hole: Range) -> None:
    left = subtract(pieces, hole)
    for byte in range(0, 720, 11):
        assert any(contains(piece, byte) for piece in left) is (
            any(contains(piece, byte) for piece in pieces) and not contains(hole, byte)
        )


def test_two_halves_cover_the_whole() -> None:
    assert covers([(0, 1 << 40), (1 << 40, 0)], WHOLE)
    assert not covers([(0, 1 << 40), ((1 << 40) + 1, 0)], WHOLE)
