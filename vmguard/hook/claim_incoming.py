"""The claim of a VM that comes in by live migration: the source has its disks, and goes on having them.

Each file is tried once, without waiting: what is free (copied storage) is locked like at any start. Of what is locked
only the reservation byte is taken, which keeps every third host out (vmguard/daemon/claim/migration_target.py).
Imported only for such a VM.
"""

from __future__ import annotations

from vmguard.adapters.linux import ofd
from vmguard.adapters.storage import lock_holder
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import RESERVATION, WHOLE
from vmguard.core.words import printable
from vmguard.errors import LockConflict
from vmguard.hook.claim_on_share import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.core.locks.ranges import Range
    from vmguard.core.locks.refusal import Holder
    from vmguard.hook.claim_on_share import ClaimedFile
    from vmguard.hook.vm_to_claim import ProgressPipe, VmToClaim
    from vmguard.protocol.messages import ClaimSettings


def lock(vm: VmToClaim, files: list[ClaimedFile], settings: ClaimSettings, progress: ProgressPipe) -> str:
    """Lock or reserve the files; return the host that the VM comes from, empty when nobody has any of its disks.

    Raise LockConflict when a disk is locked by somebody who cannot be the source.
    """
    source = ""
    for file in files:
        progress.stage(f"locking {file.plan.path}", settings.timeout)
        try:
            _lock_on_server(file, WHOLE)
            continue
        except LockConflict:
            progress.stage(f"asking who holds {file.plan.path}", settings.timeout)
        if file.plan.mode != EXCLUSIVE:
            raise refusal(vm, file, settings)
        found = lock_holder.describe(file.plan.path, file.fd, settings.record.folder)
        if not _may_be_source(vm, found, settings):
            raise refusal(vm, file, settings)
        try:
            _lock_on_server(file, RESERVATION)
        except LockConflict:
            raise refusal(vm, file, settings) from None
        file.reserved = True
        known = found.owner is not None and not found.owner.released
        source = printable(found.owner.host) if known and found.owner else settings.incoming or "another host"
    return source


def _lock_on_server(file: ClaimedFile, wanted: Range) -> None:
    """Lock a byte range, and once more if the lock stayed in this client: libvirt has just made the file for a copy."""
    file.lock(wanted)
    if file.plan.mode == EXCLUSIVE and ofd.stays_here(file.fd):
        from vmguard.hook import claim_delegated

        claim_delegated.give_back(file.plan.path, file.fd, file.real, 0)
        file.lock(wanted)


def _may_be_source(vm: VmToClaim, found: Holder, settings: ClaimSettings) -> bool:
    """Return whether the holder of a disk may be the source of this migration, as far as is known."""
    owner = found.owner
    if found.local_users:
        return False
    if owner is None or owner.released:
        return True  # somebody without vmguard, or without records
    here = settings.identity
    if (owner.host, owner.machine, owner.boot) == (here.host, here.machine, here.boot):
        return False
    expected = settings.incoming
    same_host = not expected or owner.host.partition(".")[0] == expected.partition(".")[0]
    return owner.uuid == vm.uuid and same_host
