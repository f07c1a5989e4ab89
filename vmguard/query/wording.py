"""Sentences for people: what is known about a VM, a file, a lock. Pure.

Names from outside stand in them as ``printable``.
"""

from __future__ import annotations

import datetime
from typing import assert_never

from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.plan import SHARED
from vmguard.core.locks.refusal import KEEP_READERS_OUT, ago, reader_words
from vmguard.core.reports.local_time import local_time
from vmguard.core.reports.vm_report import GUARDED, DiskStatus, VmReport
from vmguard.core.words import printable
from vmguard.query.answers import FileAnswer, LockOnShare, VmAnswer
from vmguard.query.judge import Holder

#: how much later than the end of its lease a dead host's lock is surely free
_AFTER_LEASE_S = 1.0


def stance(vm: VmAnswer) -> str:
    """Return the one word for a VM: the state of its claim, or what the watchdog does to it."""
    if vm.fencing:
        return "fencing"
    if vm.frozen:
        return "frozen"
    return f"incoming from {vm.incoming}" if vm.incoming else vm.state


def guard_words(file: FileAnswer, since: str = "", exact: bool = False) -> str:
    """Say how one file is guarded. ``since``: when it was locked. ``exact``: with ranges and descriptors."""
    if file.replaced:
        return f"locked here, but NOT the disk any more: {file.replaced}"
    if file.guard == GuardState.INCOMING:
        return "locked by the host that the VM comes from; reserved here: no third host can take it"
    if file.guard == GuardState.OUTGOING:
        return "left to the host that the VM migrates to, as it writes nothing here any more"
    if file.guard == GuardState.LOST:
        return "its lock was lost with the daemon that held it"
    if file.guard not in GUARDED:
        return f"NOT locked here: {file.conflict or file.unpinned_reason or 'the storage has not answered yet'}"
    purpose = " for reading" if file.mode == SHARED else ""
    words = f"locked by this host{purpose}{f' since {since}' if since else ''}"
    detail = f" ({exact_words(file)})" if exact else ""
    if file.guard == GuardState.RELEASED:
        return f"{words}; it is being let go of{detail}"
    if file.through:
        return f"{words}, held by {_program(file.process)} itself (pid {file.through.rpartition(' ')[2]}){detail}"
    why = file.unpinned_reason or "no process of the VM has it open"
    return f"{words}, held beside QEMU only: {why}{detail}"


def exact_words(file: FileAnswer) -> str:
    """Return ranges, mode, state and descriptor of a file's lock."""
    return f"bytes {file.ranges}, {file.mode}, {file.guard}" + (f" on {file.through}" if file.through else "")


def _program(name: str) -> str:
    return "QEMU" if not name or name.startswith(("qemu-system", "kvm")) else printable(name)


def holder_words(holder: Holder, lock: LockOnShare, now: datetime.datetime) -> str:
    """Say who holds a file, since when."""
    owner = lock.owner
    match holder:
        case Holder.NOBODY:
            if owner is None:
                return "free: nobody has it locked" + (f" ({lock.record_problem})" if lock.record_problem else "")
            last = f"last held by {printable(owner.host)}, claimed {local_time(owner.claimed, now)}"
            return f"free: nobody has it locked; {last}{_but(lock)}"
        case Holder.PROCESS_HERE:
            return "locked by a process of this host: " + ", ".join(lock.local_users)
        case Holder.READER:
            return f"locked by {reader_words(lock.local_users)}"
        case Holder.UNKNOWN:
            if lock.record_problem:
                return f"locked by somebody else; who it is cannot be told: {lock.record_problem}"
            if owner is not None:
                return "locked by somebody who wrote no owner record: the last claim in it was released"
            return "locked by somebody who wrote no owner record: it does not use vmguard, or starts just now"
        case Holder.HOST:
            assert owner is not None
            since = f"{local_time(owner.claimed, now)} ({ago(owner.claimed, now)})"
            return f"held by {printable(owner.host)} since {since}{_but(lock)}"
        case _:
            assert_never(holder)


def exact_holder(lock: LockOnShare) -> str:
    """Return what the owner record says beyond that; empty without one."""
    owner = lock.owner
    return f"epoch {owner.epoch}, claimed {owner.claimed}" if owner is not None else ""


def _but(lock: LockOnShare) -> str:
    return f"; but {lock.doubt}" if lock.doubt else ""


def holder_todo(holder: Holder, lock: LockOnShare, now: datetime.datetime) -> str:
    """Say what to do about the holder; empty when there is nothing."""
    match holder:
        case Holder.NOBODY | Holder.PROCESS_HERE:
            return ""
        case Holder.READER:
            return f"a start is refused until it ends; {KEEP_READERS_OUT}"
        case Holder.UNKNOWN:
            return "look for QEMU and qemu-img on the other hosts that mount this share"
        case Holder.HOST:
            if lock.owner is None or lock.lease is None:
                return ""
            free = now + datetime.timedelta(seconds=max(lock.lease + _AFTER_LEASE_S, lock.grace_left))
            held_up = ""
            if lock.grace_left:
                held_up = f"; by the server's own word its grace period lasts {lock.grace_left:.0f} s more at most"
            return (
                f"if {printable(lock.owner.host)} is dead, its lock ends {lock.lease:.0f} s after its last contact with"
                f" the server: a start can succeed from {free.astimezone():%H:%M:%S %Z} on at the latest{held_up}"
            )
        case _:
            assert_never(holder)


def summary(report: VmReport) -> str:
    """Say in a few words how the whole VM stands."""
    verdicts = {disk.verdict for disk in report.disks}
    if report.state.startswith("incoming ") and verdicts <= {DiskStatus.GUARDED_HERE, DiskStatus.INCOMING}:
        return report.state
    if DiskStatus.OUTGOING in verdicts and verdicts <= {DiskStatus.GUARDED_HERE, DiskStatus.OUTGOING}:
        targets = {disk.owner.host for disk in report.disks if disk.owner is not None}
        return "outgoing to " + (_hosts(targets) or "another host")
    if report.state:
        everything = verdicts == {DiskStatus.GUARDED_HERE}
        return f"guarded here, {report.state}" if everything else f"{report.state} here, but not fully guarded"
    if DiskStatus.UNGUARDED_HERE in verdicts:
        return "running here UNGUARDED"
    if DiskStatus.OTHER_MOUNT in verdicts:
        return "on a mount where no lock is proven to keep other hosts out, or beside its mount"
    if DiskStatus.HELD_ELSEWHERE in verdicts:
        held = [disk for disk in report.disks if disk.verdict is DiskStatus.HELD_ELSEWHERE]
        return "held by " + _hosts({disk.owner.host for disk in held if disk.owner})
    if DiskStatus.HELD_BY_UNKNOWN in verdicts:
        return "held by somebody unknown"
    return "free" if verdicts == {DiskStatus.FREE} else "unknown"


def _hosts(names: set[str]) -> str:
    return ", ".join(map(printable, sorted(names)))
