"""Byte ranges of a claim: everything from 0 to EOF, minus the bytes that other programs of the same host lock.

A range is a pair ``(start, length)`` as in ``struct flock``; length 0 means to EOF, also beyond the present end of
the file. Who locks what in a disk image:

=============  ==========  ============================================================================
virtlockd      byte 0      POSIX write lock while the CPUs run (libvirt src/locking/lock_driver_lockd.c)
libvirtd       byte 1      POSIX write lock around each change of owner or label (security_manager.c)
QEMU           100-299     OFD read locks on 100+n and 200+n, n a permission bit (block/file-posix.c)
vmguard        298, 299    the source and the target of a live migration, see OUTGOING_MARK and RESERVATION
vmguard        150         for a moment, to see where a lock goes, see TRIAL
=============  ==========  ============================================================================

A claim locks 0-EOF first, so that it conflicts with each of these on *other* hosts. Then it unlocks the excluded
ranges. The held ranges (0, 2-99, 300-EOF by default) still conflict with every other claim of 0-EOF.
"""

from __future__ import annotations

Range = tuple[int, int]

#: everything from the first byte to EOF
WHOLE: Range = (0, 0)
#: byte 0: the lock that virtlockd takes on the image itself
VIRTLOCKD_RANGE: Range = (0, 1)
#: byte 1: METADATA_OFFSET in libvirt's security_manager.c
LIBVIRT_RANGE: Range = (1, 1)
#: RAW_LOCK_PERM_BASE 100 and RAW_LOCK_SHARED_BASE 200 with room for each permission bit (QEMU block/file-posix.c)
QEMU_RANGE: Range = (100, 200)

#: The byte that every claim leaves free and that the target of a live migration locks while the source holds the rest.
#: A third host's claim of 0-EOF conflicts with it. So no third host gets in when the source unlocks, however long the
#: target then takes. The byte is in QEMU's range, which is free already; QEMU never locks it: it has five permissions.
RESERVATION: Range = (299, 1)
#: The byte that the source of a migration locks for reading once it has left the rest to the target: its QEMU is
#: alive, and may still have to go on.
OUTGOING_MARK: Range = (298, 1)
#: A byte that nobody locks for longer than a moment, and that touches no other lock: the kernel would join them.
TRIAL: Range = (150, 1)

_INFINITY = 1 << 63


def _end(range_: Range) -> int:
    """Return the first offset behind a range."""
    start, length = range_
    return _INFINITY if length == 0 else start + length


def _between(start: int, end: int) -> Range:
    return (start, 0 if end == _INFINITY else end - start)


def subtract(ranges: list[Range], hole: Range) -> list[Range]:
    """Return the ranges without the hole, in order."""
    left: list[Range] = []
    hole_start, hole_end = hole[0], _end(hole)
    for range_ in ranges:
        start, end = range_[0], _end(range_)
        if hole_end <= start or end <= hole_start:
            left.append(range_)
            continue
        if start < hole_start:
            left.append(_between(start, hole_start))
        if hole_end < end:
            left.append(_between(hole_end, end))
    return left


def held_ranges(excluded: list[Range]) -> list[Range]:
    """Return what a claim holds once the excluded ranges are unlocked again."""
    held = [WHOLE]
    for range_ in excluded:
        held = subtract(held, range_)
    return held


def covers(ranges: list[Range], wanted: Range) -> bool:
    """Return whether the ranges together contain every byte of the wanted one."""
    missing = [wanted]
    for range_ in ranges:
        missing = subtract(missing, range_)
    return not missing


def describe(ranges: list[Range]) -> str:
    """Return the ranges as a person writes them: ``0, 2-99, 300-EOF``."""
    words = []
    for range_ in sorted(ranges):
        start, end = range_[0], _end(range_)
        if end == _INFINITY:
            words.append(f"{start}-EOF")
        elif end == start + 1:
            words.append(str(start))
        else:
            words.append(f"{start}-{end - 1}")
    return ", ".join(words) or "none"
