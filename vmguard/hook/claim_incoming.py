"""The claim of a VM that comes in by live migration: the source has its disks, and goes on having them.

One try for each file, no waiting: what is free (copied storage) is locked like at any start. Of what is locked only
the foothold is taken, which keeps every third host out (see vmguard/daemon/claim/migration_target.py).
Imported only then.
"""

from __future__ import annotations

from vmguard.adapters.linux import ofd
from vmguard.adapters.storage import lock_holder
from vmguard.core.locks.plan import EXCLUSIVE, printable
from vmguard.core.locks.ranges import FOOTHOLD, WHOLE
from vmguard.core.locks.refusal import Here
from vmguard.errors import LockConflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmguard.core.locks.refusal import Holder
    from vmguard.hook.claimed_file import ClaimedFile
    from vmguard.hook.vm_to_claim import Reporter, Subject

    Refuse = Callable[[ClaimedFile], LockConflict]


def lock(
    subject: Subject, files: list[ClaimedFile], settings: dict[str, Any], reporter: Reporter, refuse: Refuse
) -> str:
    """The host that the VM comes from; empty when nobody has any of its disks. Raises LockConflict."""
    source = ""
    for file in files:
        reporter.stage(f"locking {file.plan.path}", settings["timeout"])
        try:
            file.lock(WHOLE)
            continue
        except LockConflict:
            reporter.stage(f"asking who holds {file.plan.path}", settings["timeout"])
        if file.plan.mode != EXCLUSIVE:
            raise refuse(file)
        found = lock_holder.describe(file.plan.path, file.fd, settings["record"]["folder"])
        if not _is_source(subject, found, settings):
            raise refuse(file)
        try:
            ofd.lock(file.fd, file.plan.path, ofd.WRITE, FOOTHOLD)
        except LockConflict:
            raise refuse(file) from None
        file.foothold = True
        known = found.owner is not None and not found.owner.released
        source = printable(found.owner.host) if known and found.owner else settings["incoming"] or "another host"
    return source


def _is_source(subject: Subject, found: Holder, settings: dict[str, Any]) -> bool:
    """Whether who holds a disk may be the source of this migration, as far as is known."""
    owner = found.owner
    if found.local_users:
        return False
    if owner is None or owner.released:
        return True  # somebody without vmguard, or without records
    identity = settings["identity"]
    here = Here(identity["host"], identity["machine"], identity["boot"])
    if (owner.host, owner.machine, owner.boot) == (here.host, here.machine, here.boot):
        return False
    expected = settings["incoming"]
    same_host = not expected or owner.host.partition(".")[0] == expected.partition(".")[0]
    return owner.uuid == subject.uuid and same_host
