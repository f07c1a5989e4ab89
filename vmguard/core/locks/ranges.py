"""Byte ranges of a claim: everything from 0 to EOF, less the windows that others lock on the same host.

A range is a pair ``(start, length)`` as in ``struct flock``; length 0 means to EOF, also beyond the present end of
the file. Who locks what in a disk image:

=============  ==========  ============================================================================
virtlockd      byte 0      POSIX write lock while the CPUs run (libvirt src/locking/lock_driver_lockd.c)
libvirtd       byte 1      POSIX write lock around each change of owner or label (security_manager.c)
QEMU           100-299     OFD read locks on 100+n and 200+n, n a permission bit (block/file-posix.c)
vmguard        298, 299    the source and the target of a live migration, see LEAVING and FOOTHOLD
=============  ==========  ============================================================================

A claim takes 0-EOF first, so that it conflicts with every one of those on *other* hosts, then frees the windows.
What stays held (0, 2-99, 300-EOF by default) still conflicts with every other claim of 0-EOF.
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

#: The byte that every claim leaves free and that the target of a live migration locks while the source has the rest.
#: A third host's claim of 0-EOF meets it, so that nobody gets in when the source lets go, however long the target then
#: takes. It lies in QEMU's window, which is free already, and QEMU locks nothing there: it knows five permissions.
RESERVATION: Range = (299, 1)
#: The byte that the source of a migration locks for reading when it has left the rest to the target: its QEMU lives,
#: and may still have to go on.
OUTGOING_MARK: Range = (298, 1)

_INFINITY = 1 << 63


def _end(piece: Range) -> int:
    """The first offset behind a range."""
    start, length = piece
    return _INFINITY if length == 0 else start + length


def _between(start: int, end: int) -> Range:
    return (start, 0 if end == _INFINITY else end - start)


def subtract(pieces: list[Range], hole: Range) -> list[Range]:
    """The pieces without the hole, in order."""
    left: list[Range] = []
    hole_start, hole_end = hole[0], _end(hole)
    for piece in pieces:
        start, end = piece[0], _end(piece)
        if hole_end <= start or end <= hole_start:
            left.append(piece)
            continue
        if start < hole_start:
            left.append(_between(start, hole_start))
        if hole_end < end:
            left.append(_between(hole_end, end))
    return left


def held_ranges(windows: list[Range]) -> list[Range]:
    """What a claim holds once its windows are free again."""
    pieces = [WHOLE]
    for window in windows:
        pieces = subtract(pieces, window)
    return pieces


def covers(pieces: list[Range], wanted: Range) -> bool:
    """Whether the pieces together contain every byte of the wanted range."""
    remaining = [wanted]
    for piece in pieces:
        remaining = subtract(remaining, piece)
    return not remaining


def describe(pieces: list[Range]) -> str:
    """The ranges as a person writes them: ``0, 2-99, 300-EOF``."""
    words = []
    for piece in sorted(pieces):
        start, end = piece[0], _end(piece)
        if end == _INFINITY:
            words.append(f"{start}-EOF")
        elif end == start + 1:
            words.append(str(start))
        else:
            words.append(f"{start}-{end - 1}")
    return ", ".join(words) or "none"
