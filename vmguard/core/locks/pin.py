"""The pin: moves a lock onto the open file description that does the I/O, never leaving the file uncovered.

A lock beside QEMU stops a second guard; a lock ON QEMU's own description stops QEMU: once it is lost, the kernel
answers its writes with EIO (NFS_LOCK_LOST, fs/nfs/nfs4proc.c nfs4_select_rw_stateid), also those still queued.

Two descriptions cannot hold the same range exclusively at the same time, so the lock moves in two steps: first the
upper half, then the lower one. At every moment this host holds at least one half, and a rival's claim of 0-EOF needs
both. The steps are computed here, without any system call; vmguard/daemon/pin/pinner.py takes them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.ranges import WHOLE, Range, covers, subtract

#: where the halves meet, in bytes: behind everything that QEMU and libvirt lock
_MIDDLE = 300
#: QEMU's permission bytes: "I write", "nobody else may write"
_WRITES: Range = (101, 1)
_NOBODY_ELSE_WRITES: Range = (201, 1)


class Verb(enum.StrEnum):
    LOCK = "lock"
    UNLOCK = "unlock"


class Side(enum.StrEnum):
    """Whose description a step works on: the one that has the lock now, or the one that shall have it."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True)
class Step:
    """One lock call on one description."""

    side: Side
    verb: Verb
    piece: Range
    #: for LOCK
    exclusive: bool = False


def halves(pieces: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """The upper and the lower half of what a claim holds."""
    upper = list(pieces)
    lower = list(pieces)
    upper = _without(upper, (0, _MIDDLE))
    lower = _without(lower, (_MIDDLE, 0))
    return upper, lower


def _without(pieces: list[Range], hole: Range) -> list[Range]:
    return subtract(pieces, hole)


def move(source_mode: str | None, target_mode: str, pieces: Sequence[Range]) -> list[Step]:
    """The steps that bring a lock from one description to another, in their order.

    ``source_mode`` is None when no description of this host has a lock on the file yet.
    """
    if source_mode is None:
        return [Step(Side.TARGET, Verb.LOCK, piece, target_mode == EXCLUSIVE) for piece in pieces]
    if target_mode == SHARED:
        return _to_shared(source_mode, pieces)
    upper, lower = halves(pieces)
    steps = []
    for half in (upper, lower):
        steps += [Step(Side.SOURCE, Verb.UNLOCK, piece) for piece in half]
        steps += [Step(Side.TARGET, Verb.LOCK, piece, True) for piece in half]
    return steps


def _to_shared(source_mode: str, pieces: Sequence[Range]) -> list[Step]:
    """Shared locks do not exclude each other: turn the source's into one, add the target's, drop the source's."""
    steps = []
    if source_mode == EXCLUSIVE:
        steps += [Step(Side.SOURCE, Verb.LOCK, piece, False) for piece in pieces]
    steps += [Step(Side.TARGET, Verb.LOCK, piece, False) for piece in pieces]
    steps += [Step(Side.SOURCE, Verb.UNLOCK, WHOLE)]
    return steps


@dataclass(frozen=True)
class Description:
    """A process's open file description of a guarded file, as /proc shows it."""

    pid: int
    fd: int
    writable: bool
    #: the OFD locks on it: (exclusive, start, length)
    locks: tuple[tuple[bool, int, int], ...] = ()

    def holds(self, mode: str, pieces: Sequence[Range]) -> bool:
        """Whether it carries the whole lock of that mode (an exclusive one serves as a shared one)."""
        own = [(start, length) for exclusive, start, length in self.locks if exclusive or mode == SHARED]
        return all(covers(own, piece) for piece in pieces)

    def holds_some(self, pieces: Sequence[Range]) -> bool:
        """Whether it carries a part of it, as after a pin that was interrupted."""
        own = [(start, length) for exclusive, start, length in self.locks if exclusive]
        return any(covers(own, piece) for piece in pieces)


@dataclass(frozen=True)
class Wish:
    """What a file of a VM needs now: which description shall carry the lock, and in which mode."""

    mode: str
    target: Description
    satisfied: bool


def wish(descriptions: Sequence[Description], pieces: Sequence[Range], shareable: bool = False) -> Wish | None:
    """Where the lock of one file belongs, given all of the VM's open descriptions of it; None when it is closed.

    A description that writes needs the exclusive lock; among several (QEMU opens a file again to change its mode, and
    closes the old one a moment later) the one that has the lock keeps it, so that nothing moves without need.
    ``shareable``: several VMs may write to it, so the lock stays a shared one.
    """
    if not descriptions:
        return None
    writers = [item for item in descriptions if item.writable]
    mode = EXCLUSIVE if writers and not shareable else SHARED
    candidates = writers or list(descriptions)
    best = min(
        candidates, key=lambda item: (not item.holds(mode, pieces), not item.holds_some(pieces), item.pid, item.fd)
    )
    done = best.holds(mode, pieces) and not (mode == SHARED and best.holds(EXCLUSIVE, pieces))
    return Wish(mode, best, done)


def shares_writes(descriptions: Sequence[Description]) -> bool:
    """Whether QEMU itself lets others write to an image that it writes: a cluster's disk (share-rw).

    It locks byte 101 of what it writes, and byte 201 unless others may write, too (block/file-posix.c). Where QEMU
    takes no image locks nobody can tell, and the answer is no.
    """
    locked = [(start, length or 1) for item in descriptions for _, start, length in item.locks]
    return covers(locked, _WRITES) and not covers(locked, _NOBODY_ELSE_WRITES)
