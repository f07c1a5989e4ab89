"""What the answers mean: who holds a file, the verdict on it, and the status of a VM. Pure."""

from __future__ import annotations

import enum

from vmguard.core.reports.vm_report import GUARDED, DiskStatus
from vmguard.query.answers import FileAnswer, LockOnShare


class Holder(enum.Enum):
    """Who stands in the way of a file's lock."""

    NOBODY = enum.auto()
    #: a process of this host, and no claim of this host
    PROCESS_HERE = enum.auto()
    #: somebody who only reads it, here or elsewhere
    READER = enum.auto()
    #: somebody without a present claim in the owner record
    UNKNOWN = enum.auto()
    #: the host that the owner record names
    HOST = enum.auto()


VERDICTS = {
    Holder.NOBODY: DiskStatus.FREE,
    Holder.PROCESS_HERE: DiskStatus.HELD_BY_UNKNOWN,
    Holder.READER: DiskStatus.HELD_BY_UNKNOWN,
    Holder.UNKNOWN: DiskStatus.HELD_BY_UNKNOWN,
    Holder.HOST: DiskStatus.HELD_ELSEWHERE,
}


def holder_of(lock: LockOnShare, this_host: str) -> Holder:
    """Decide who holds a file, by what the share says. ``this_host``: the name in this host's own records."""
    owner = lock.owner
    if not lock.conflict:
        return Holder.NOBODY
    if lock.is_reader:
        return Holder.READER
    if lock.local_users and (owner is None or owner.host != this_host):
        return Holder.PROCESS_HERE
    if owner is None or owner.released:
        return Holder.UNKNOWN
    return Holder.HOST


def verdict_here(file: FileAnswer) -> DiskStatus:
    """Judge a file of a VM that this host guards."""
    if file.replaced:
        return DiskStatus.UNGUARDED_HERE
    return GUARDED.get(file.guard, DiskStatus.UNGUARDED_HERE)
