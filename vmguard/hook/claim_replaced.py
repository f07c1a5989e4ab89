"""A start on a disk that replaced another one: refuse it while another host may still run the VM on the old file.

A lock is on an inode, the promise is about a VM. When a running VM's image is replaced by rename (a restore, a
roll-back) the new file is free, and the VM could run twice. So each claim leaves a list of the inodes that it locked
beside their records, by the VM's id (owner_record.list_disks), and the next start reads it: one LOOKUP, one READLINK.
For what is locked later (a hot-plug, an overlay, a migration's arrival) the daemon writes it with the late record.
Imported only when the list names a file that this start does not open.

What can be known of such a file: if it still has a name in the folder (it was renamed away, or its NFS client renamed
it to .nfs...), its lock is asked for. If it has none, nobody can open it any more, and only its record speaks. A claim
of another host that was not released counts then, unless the same run of that host is known to be over: it was also the
last on a disk that we have just locked. Whether that host lives cannot be known from here; a person decides, and
removes the record.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import ofd
from vmguard.adapters.linux.regular_file import open_regular
from vmguard.adapters.storage import owner_record
from vmguard.core.locks.owner_record import file_name
from vmguard.core.locks.ranges import WHOLE
from vmguard.core.words import printable, shell_word
from vmguard.errors import LockConflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.core.locks.owner_record import Owner
    from vmguard.hook.claim_on_share import ClaimedFile
    from vmguard.hook.vm_to_claim import ProgressPipe, VmToClaim
    from vmguard.protocol.messages import ClaimSettings

#: files of an earlier claim that are looked at
_MAX_LOOKED_AT = 16
#: a folder with more entries is not searched for the name of an inode
_MAX_ENTRIES = 20_000


def refuse_held(
    vm: VmToClaim, files: list[ClaimedFile], others: list[int], settings: ClaimSettings, progress: ProgressPipe
) -> None:
    """Raise LockConflict when another host holds one of the files that the VM had before.

    ``files``: of one folder, locked by now. ``others``: inodes in that folder of an earlier claim.
    """
    folder, beside = settings.record.folder, files[0].real
    progress.stage("looking for disks that were replaced", settings.timeout)
    me = settings.identity
    over: set[tuple[str, str]] = set()
    for file in files:
        last = _last(file.real, folder, file.key[1])
        if last is not None and last.uuid == vm.uuid:
            over.add((last.machine, last.boot))
    for inode in others[:_MAX_LOOKED_AT]:
        last = _last(beside, folder, inode)
        if last is None or last.released or last.uuid != vm.uuid or (last.host, last.machine) == (me.host, me.machine):
            continue
        if (last.machine, last.boot) in over or not _is_same_vm(vm, files, last) or _is_free(beside, inode):
            continue
        record = os.path.join(os.path.dirname(beside), folder, file_name(inode))
        raise LockConflict(
            beside,
            f"VM '{printable(vm.name)}' is not started: host {printable(last.host)} claimed it on another file, which"
            " was replaced since",
            f"if the VM runs on {printable(last.host)}, stop it there; if that host is surely off:"
            f" rm {shell_word(record)}",
            [
                f"  replaced : {printable(last.path)} was inode {inode}; the file there now is another",
                f"  claimed  : {last.claimed}, epoch {last.epoch}, and never released",
            ],
        )


def _last(disk: str, folder: str, inode: int) -> Owner | None:
    try:
        return owner_record.as_owner(disk, lambda: owner_record.read_owner(disk, folder, inode))
    except OSError:
        return None


def _is_same_vm(vm: VmToClaim, files: list[ClaimedFile], last: Owner) -> bool:
    """Return whether a claim is of this very VM, and not of one that has the same id elsewhere."""
    return vm.unique_id or any(file.plan.path == last.path for file in files)


def _is_free(beside: str, inode: int) -> bool:
    """Return whether the file with that inode still has a name in the folder, and nobody has it locked."""
    folder = os.path.dirname(beside)
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number > _MAX_ENTRIES:
                    return False
                if entry.inode() == inode:
                    return _is_unlocked(entry.path, inode)
    except OSError:
        pass
    return False


def _is_unlocked(path: str, inode: int) -> bool:
    fd = open_regular(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.fstat(fd).st_ino == inode and ofd.conflict(fd, ofd.WRITE, WHOLE) is None
    finally:
        os.close(fd)
