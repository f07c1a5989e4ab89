"""The pin: a lock moves onto the open file description that does the I/O, and the file is never left uncovered.

A lock beside QEMU stops a second guard; a lock ON QEMU's own description stops QEMU: once it is lost, the kernel
answers QEMU's writes with EIO, also the queued ones (NFS_LOCK_LOST, fs/nfs/nfs4proc.c nfs4_select_rw_stateid).

Two descriptions cannot hold the same range exclusively at the same time, so the lock moves in two steps: first the
upper half, then the lower one. At every moment this host holds at least one half, and a rival's claim of 0-EOF needs
both. The steps are computed here, without any system call; vmguard/daemon/pin/lock_transfer.py takes them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.locks.ranges import WHOLE, Range, covers, subtract

#: the offset where the halves meet: behind everything that QEMU and libvirt lock
_MIDDLE = 300
#: the first byte of the upper half
SEAM: Range = (_MIDDLE, 1)
#: the byte that QEMU locks for its permission "I write"
_WRITES: Range = (101, 1)
#: the byte that QEMU locks unless others may write, too
_NOBODY_ELSE_WRITES: Range = (201, 1)


class Verb(enum.StrEnum):
    LOCK = "lock"
    UNLOCK = "unlock"


class Side(enum.StrEnum):
    """The description that a step works on: the one that carries the lock now, or the one that will carry it."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True)
class Step:
    """One lock call on one description."""

    side: Side
    verb: Verb
    byte_range: Range
    #: for LOCK: an exclusive lock, else a shared one
    exclusive: bool = False


def halves(held: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """Return the upper and the lower half of what a claim holds."""
    return subtract(list(held), (0, _MIDDLE)), subtract(list(held), (_MIDDLE, 0))


def move(source_mode: str | None, target_mode: str, held: Sequence[Range]) -> list[Step]:
    """Return the steps that bring a lock from one description to another, in their order.

    ``source_mode`` is None when no description of this host has a lock on the file yet.
    """
    if source_mode is None:
        return [Step(Side.TARGET, Verb.LOCK, range_, target_mode == EXCLUSIVE) for range_ in held]
    if target_mode == SHARED:
        return _to_shared(source_mode, held)
    steps = []
    for half in halves(held):
        steps += [Step(Side.SOURCE, Verb.UNLOCK, range_) for range_ in half]
        steps += [Step(Side.TARGET, Verb.LOCK, range_, True) for range_ in half]
    return steps


def _to_shared(source_mode: str, held: Sequence[Range]) -> list[Step]:
    """Shared locks do not exclude each other: make the source's shared, add the target's, drop the source's."""
    steps = []
    if source_mode == EXCLUSIVE:
        steps += [Step(Side.SOURCE, Verb.LOCK, range_, False) for range_ in held]
    steps += [Step(Side.TARGET, Verb.LOCK, range_, False) for range_ in held]
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

    def holds(self, mode: str, held: Sequence[Range]) -> bool:
        """Return whether it carries the whole lock in that mode (an exclusive lock serves as a shared one)."""
        own = [(start, length) for exclusive, start, length in self.locks if exclusive or mode == SHARED]
        return all(covers(own, range_) for range_ in held)

    def holds_some(self, held: Sequence[Range]) -> bool:
        """Return whether it carries a part of an exclusive lock, as after a pin that was interrupted."""
        own = [(start, length) for exclusive, start, length in self.locks if exclusive]
        return any(covers(own, range_) for range_ in held)


@dataclass(frozen=True)
class Wish:
    """The description that is to carry the lock of one file now, and the mode of that lock."""

    mode: str
    target: Description
    #: the lock is there already
    satisfied: bool


def wish(descriptions: Sequence[Description], held: Sequence[Range], shareable: bool = False) -> Wish | None:
    """Return where the lock of one file belongs, given all of the VM's open descriptions of it; None if it is closed.

    A description that writes needs the exclusive lock. Among several (QEMU opens a file again to change its mode, and
    closes the old one a moment later) the one that has the lock keeps it, so that nothing moves without need.
    ``shareable``: several VMs may write to the file, so the lock stays shared.
    """
    if not descriptions:
        return None
    writers = [item for item in descriptions if item.writable]
    mode = EXCLUSIVE if writers and not shareable else SHARED
    candidates = writers or list(descriptions)
    best = min(candidates, key=lambda item: (not item.holds(mode, held), not item.holds_some(held), item.pid, item.fd))
    done = best.holds(mode, held) and not (mode == SHARED and best.holds(EXCLUSIVE, held))
    return Wish(mode, best, done)


def shares_writes(descriptions: Sequence[Description]) -> bool:
    """Return whether QEMU itself lets others write to an image that it writes: a cluster's disk (share-rw).

    QEMU locks byte 101 of what it writes, and byte 201 unless others may write, too (block/file-posix.c). Where QEMU
    takes no image locks, nothing shows it, and the answer is no.
    """
    locked = [(start, length or 1) for item in descriptions for _, start, length in item.locks]
    return covers(locked, _WRITES) and not covers(locked, _NOBODY_ELSE_WRITES)
