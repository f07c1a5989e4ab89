"""Move a lock onto a process's own description, step by step, in the file system's thread.

Each step is a lock call on NFS and may hang.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmguard import faults
from vmguard.adapters.linux import mounts, ofd, pidfd, proc, systemd
from vmguard.adapters.linux.proc import Key, OpenFile
from vmguard.adapters.linux.regular_file import link_of
from vmguard.adapters.storage import delegation
from vmguard.adapters.storage.files import real_path
from vmguard.core.locks.pin import Side, Step, Verb, move
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import OUTGOING_MARK, RESERVATION, TRIAL, WHOLE, Range, covers, subtract
from vmguard.errors import LockConflict

log = logging.getLogger("vmguard.pin")


@dataclass(frozen=True)
class Order:
    """An order to move the lock of one file onto a process's own description."""

    path: str
    key: Key
    #: the process that does the I/O, and its descriptor's number
    pid: int
    pidfd: int
    fd: int
    mode: str
    pieces: tuple[Range, ...]
    #: our descriptor that has the lock now; None when no descriptor of ours has it
    source: int | None
    #: the mode of that lock; None when there is none
    source_mode: str | None
    #: the description has the lock already (an earlier daemon pinned it): only a copy is missing
    satisfied: bool = False
    #: whether a copy of the description shall stay with us
    keep: bool = True
    #: the process has stopped writing: another host that waits for the file may take it
    yields: bool = False


@dataclass(frozen=True)
class RivalLock:
    """A lock of another holder that was in the way."""

    #: the lock excludes everybody; else it is a reader's
    exclusive: bool
    #: processes of this host with a lock on the file, in words
    local: tuple[str, ...] = ()
    #: this host holds all that it held before the try
    restored: bool = False
    #: the rival is the target of this VM's migration
    successor: bool = False

    @property
    def sentence(self) -> str:
        """Return the rival for people: ``locked by another host``."""
        if self.successor:
            return "left to the host that it migrates to"
        how = "locked" if self.exclusive else "locked for reading"
        return f"{how} by {', '.join(self.local) if self.local else 'another host'}"


@dataclass(frozen=True)
class Outcome:
    """The result of an order.

    ``copy`` is our copy of the process's description once the order is done; where the kernel forbids that, a
    descriptor of our own that has the lock, if no descriptor of this host had it before.
    """

    done: bool
    copy: int | None = None
    #: whose lock was in the way
    rival: RivalLock | None = None
    #: the process has closed that descriptor in the meantime: scan again
    gone: bool = False
    #: why the kernel does not let us do it at all
    forbidden: str = ""
    #: CLOCK_BOOTTIME seconds when the first request that locked it was sent; None: it was locked already
    granted: float | None = None


def carry_out(order: Order, now: Callable[[], float]) -> Outcome:
    """Carry out an order, in the file system's thread; ``now`` is the clock of ``Outcome.granted``.

    The source stays open; after a conflict it holds what it held before.

    Raises OSError when a lock call fails for another reason than a conflict.
    """
    try:
        copy = pidfd.copy_descriptor(order.pidfd, order.fd)
    except OSError as problem:
        if isinstance(problem, ProcessLookupError) or problem.errno == errno.EBADF:
            return Outcome(False, gone=True)
        return _hold(order, pidfd.why_forbidden(problem))
    # The copy's mount is one of the process's own mount namespace: libvirt gives each QEMU one.
    if proc.own_key(copy, mounts.devices(order.pid)) != order.key:
        ofd.close(copy)
        return Outcome(False, gone=True)
    faults.point("pin-copied")
    if order.yields and ofd.conflict(copy, ofd.READ, RESERVATION) is not None:
        return _leave(order, copy)
    granted = None if order.satisfied else now()
    try:
        if not order.satisfied:
            _take(order, copy, move(order.source_mode, order.mode, order.pieces))
            _send(copy, order.path, order.mode, order.pieces)
    except delegation.NotGivenBack as problem:
        if order.source is not None:
            _undo(order, copy)  # else it stays: a lock that is only sent when a rival comes is better than none
        ofd.close(copy)
        return Outcome(False, forbidden=str(problem))
    except LockConflict:
        _undo(order, copy)
        rival = _rival(order, copy if order.source is None else order.source)
        ofd.close(copy)
        return Outcome(False, rival=rival)
    except OSError:
        _undo(order, copy)
        ofd.close(copy)
        raise
    faults.point("pin-done")
    if not order.keep:
        ofd.close(copy)
    return Outcome(True, copy=copy if order.keep else None, granted=granted)


def _leave(order: Order, copy: int) -> Outcome:
    """Leave the file to the target of the VM's migration, but show that its source lives.

    At the switch QEMU opens its disks read-only, and may live on for long (post-copy): a lock for reading would keep
    the target, whose guest runs by then, from its own. But the source may also have to go on.
    """
    try:
        ofd.lock(copy, order.path, ofd.READ, OUTGOING_MARK)
    except LockConflict:
        log.warning("%s: somebody has locked the byte that says that its VM is leaving", order.path)
    finally:
        ofd.close(copy)
    return Outcome(False, rival=RivalLock(True, successor=True))


def _hold(order: Order, forbidden: str) -> Outcome:
    """Lock beside the process, on a descriptor of our own: the next best thing.

    The claim's own descriptor serves, if there is one; else the file is opened through the process's link, which needs
    no path.
    """
    if order.source is not None:
        return Outcome(False, forbidden=forbidden)
    access = os.O_RDWR if order.mode == EXCLUSIVE else os.O_RDONLY
    # The number may be anything else's by now, even a device's, which root must not open: held and known first.
    held = os.open(f"/proc/{order.pid}/fd/{order.fd}", os.O_PATH | os.O_CLOEXEC)
    try:
        if proc.own_key(held, mounts.devices(order.pid)) != order.key or not stat.S_ISREG(os.fstat(held).st_mode):
            return Outcome(False, gone=True)
        fd = os.open(link_of(held), access | os.O_DIRECT | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        ofd.close(held)
    try:
        for piece in order.pieces:
            ofd.lock(fd, order.path, ofd.WRITE if order.mode == EXCLUSIVE else ofd.READ, piece)
        _send(fd, order.path, order.mode, order.pieces)
        return Outcome(False, copy=fd, forbidden=forbidden)
    except LockConflict:
        rival = _rival(order, fd)
        ofd.close(fd)
        return Outcome(False, rival=rival)
    except OSError:
        ofd.close(fd)
        raise


def _rival(order: Order, fd: int) -> RivalLock | None:
    """Return whose lock is in the way of a description's; None when none is any more (try again)."""
    found = conflicts_of(order, fd)
    if not found:
        return None
    users = proc.users_of({order.key}, exclude={os.getpid(), *systemd.keepers()})
    return judge_conflicts(order, fd, found, [user for user in users if _in_the_way(order, user)])


def conflicts_of(order: Order, fd: int) -> list[ofd.Conflict]:
    """Return the locks that are in the way of a description's."""
    kind = ofd.WRITE if order.mode == EXCLUSIVE else ofd.READ
    return [conflict for piece in order.pieces if (conflict := ofd.conflict(fd, kind, piece)) is not None]


def judge_conflicts(order: Order, fd: int, found: list[ofd.Conflict], lockers: list[OpenFile]) -> RivalLock | None:
    """Return the rival behind conflicts, given this host's own lockers of the file; None when there is none any more.

    A lock may have gone between the look at the conflicts and the look at the lockers.
    """
    if any(user.pid == order.pid for user in lockers):
        return None  # our own lock, on a description that the process is about to close: it comes over then
    if not lockers and not conflicts_of(order, fd):
        return None  # our own lock, on a description that the process has closed meanwhile
    names = {f"{proc.name(user.pid)} (pid {user.pid})" for user in lockers}
    # No scan saw the switch (this daemon was down, or late): the target has the whole disk by now.
    restored = order.source is not None and _holds(order.source, order)
    successor = order.yields and not restored and not names
    return RivalLock(any(item.exclusive for item in found), tuple(sorted(names)), restored, successor)


def _holds(source: int, order: Order) -> bool:
    """Return whether our own descriptor carries the locks that it carried before the move."""
    locks = proc.lock_ranges(proc.fdinfo("self", source))
    exclusive = order.source_mode == EXCLUSIVE
    own = [(start, length) for write, start, length in locks if write or not exclusive]
    return all(covers(own, piece) for piece in order.pieces)


def _in_the_way(order: Order, user: OpenFile) -> bool:
    locked = [(start, length) for _, start, length in user.locks]
    return any(subtract(list(order.pieces), piece) != list(order.pieces) for piece in locked)


def _take(order: Order, copy: int, steps: Sequence[Step]) -> None:
    for number, step in enumerate(steps):
        fd = copy if step.side is Side.TARGET else order.source
        assert fd is not None, "a lock without a source needs no step on it"
        if step.verb is Verb.UNLOCK:
            ofd.unlock(fd, step.byte_range)
        else:
            ofd.lock(fd, order.path, ofd.WRITE if step.exclusive else ofd.READ, step.byte_range)
        faults.point(f"pin-{number}")


def _send(fd: int, path: str, mode: str, pieces: Sequence[Range]) -> None:
    """See to it that a lock is on the server: QEMU's open without O_DIRECT (a cache mode) may have got a delegation."""
    if mode == EXCLUSIVE and ofd.stays_here(fd):
        delegation.send_locks(fd, path, real_path(fd, path), list(pieces))


def send_if_it_stayed(pid: int, process: int, fd: int, path: str, key: Key, pieces: Sequence[Range]) -> bool:
    """Bring a description's exclusive lock to the server if it is in a delegation; return whether it was.

    It runs in the file system's thread. The label by which fdinfo shows that is as old as the lock, so a byte is locked
    for a moment to see where such a lock goes now. What is opened with O_DIRECT gets no delegation, and is not touched.
    ``process``: a pidfd. ``key``: the file, which the descriptor may not be any more.
    Raises OSError, LockConflict (somebody has that byte).
    """
    if proc.fdinfo(pid, fd).flags & os.O_DIRECT:
        return False
    copy = pidfd.copy_descriptor(process, fd)
    try:
        if proc.own_key(copy, mounts.devices(pid)) != key:
            return False
        ofd.lock(copy, path, ofd.WRITE, TRIAL)
        stayed = ofd.stays_here(copy)
        ofd.unlock(copy, TRIAL)
        if stayed:
            delegation.send_locks(copy, path, real_path(copy, path), list(pieces))
        return stayed
    finally:
        ofd.close(copy)


def _undo(order: Order, copy: int) -> None:
    """Unlock the target's parts and restore the source's; no rival can get in between the two."""
    for piece in order.pieces:
        _quietly(functools.partial(ofd.unlock, copy, piece))
    if order.source is not None and order.source_mode is not None:
        kind = ofd.WRITE if order.source_mode == EXCLUSIVE else ofd.READ
        for piece in order.pieces:
            _quietly(functools.partial(ofd.lock, order.source, order.path, kind, piece))


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except (OSError, LockConflict):
        pass


def lock_again(process: int, fd: int, path: str, mode: str, pieces: Sequence[Range], now: Callable[[], float]) -> float:
    """Unlock a lost lock of a process's description and lock it anew; return when that was asked for.

    It runs in the file system's thread. Only the unlock makes the kernel forget that it was lost
    (fs/nfs/nfs4state.c: the last nfs4_lock_state goes).
    Raises LockConflict or OSError.
    """
    copy = pidfd.copy_descriptor(process, fd)
    try:
        ofd.unlock(copy, WHOLE)
        granted = now()
        for piece in pieces:
            ofd.lock(copy, path, ofd.WRITE if mode == EXCLUSIVE else ofd.READ, piece)
        _send(copy, path, mode, pieces)
        return granted
    finally:
        ofd.close(copy)


def let_go(fds: Sequence[int], names: Sequence[str] = ()) -> None:
    """Unlock each description, then close it, in the file system's thread.

    It is unlocked first because a copy elsewhere must not keep the lock.

    ``names`` are those under which systemd keeps the descriptors. Raises the first OSError, after all are closed.
    """
    faults.point("release-before-unlock")
    problems = []
    for fd in fds:
        try:
            ofd.unlock(fd, WHOLE)
        except OSError as problem:
            problems.append(problem)
        faults.point("release-unlocked")
    for name in names:
        systemd.forget(name, systemd.BARRIER_TIMEOUT_S)
    faults.point("release-forgotten")
    close_last(fds)
    faults.point("release-closed")
    if problems:
        raise problems[0]


def close_last(fds: Sequence[int]) -> None:
    """Close descriptors, in the file system's thread, once systemd has forgotten them (adapters/linux/systemd.py).

    When systemd does not answer, they stay open, which is the lesser evil: they are not locked any more.
    """
    if fds and not systemd.barrier():
        log.error("systemd does not answer; %d descriptors that it may still have are left open", len(fds))
        return
    for fd in fds:
        ofd.close(fd)
