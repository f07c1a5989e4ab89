"""The part of a claim that touches the share: open, judge, lock all or none, free the excluded ranges, write records.

Runs only in the hook's child (vmguard/hook/claim.py): each call here may hang on NFS. A function that raises leaves
nothing locked, because the descriptors end with this process.
"""

from __future__ import annotations

import os
import time

from vmguard import faults
from vmguard.adapters.linux import mounts, mountstats, ofd
from vmguard.adapters.storage.backing_chain import resolve
from vmguard.adapters.storage.files import Opener, real_path
from vmguard.core.locks.plan import EXCLUSIVE, Unguarded
from vmguard.core.locks.ranges import WHOLE, held_ranges
from vmguard.core.sources.domain_xml import FILE
from vmguard.errors import LockConflict, PlanError
from vmguard.hook.vm_to_claim import LOCK_SLACK_S, PROGRESS_INTERVAL_S, boottime
from vmguard.protocol.messages import ClaimedFileMessage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmguard.core.locks.plan import PlannedFile
    from vmguard.core.locks.ranges import Range
    from vmguard.hook.vm_to_claim import ProgressPipe, VmToClaim
    from vmguard.protocol.messages import ClaimPolicy, ClaimSettings

#: between two tries to lock; doubled from the first to the last
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 0.5
#: of a wait before the first progress message
_FIRST_PROGRESS_S = 1.0


class ClaimedFile:
    """A file of the plan, opened and then locked."""

    __slots__ = ("fd", "granted", "held_ranges", "key", "plan", "point", "real", "reserved")

    def __init__(self, plan: PlannedFile, fd: int, key: tuple[int, int], held_ranges: list[Range]) -> None:
        self.plan = plan
        self.fd = fd
        #: device and inode
        self.key = key
        #: what stays locked once the excluded ranges are free again
        self.held_ranges = held_ranges
        self.real = real_path(fd, plan.path)
        #: mount point of the NFSv4 share that it lies on; empty elsewhere
        self.point = ""
        #: CLOCK_BOOTTIME seconds when the request that got its lock was sent: the lease is proven from there on
        self.granted = 0.0
        #: only the reservation byte is locked: the host that the VM comes from has the rest
        self.reserved = False

    def lock(self, wanted: Range) -> None:
        """Lock a byte range in the file's mode, without waiting. Raise LockConflict, LockUnavailable or OSError."""
        self.granted = boottime()
        ofd.lock(self.fd, self.plan.path, ofd.WRITE if self.plan.mode == EXCLUSIVE else ofd.READ, wanted)

    def message(self) -> ClaimedFileMessage:
        """Return what the daemon has to know of it."""
        return ClaimedFileMessage(
            path=self.plan.path,
            mode=self.plan.mode,
            role=self.plan.role,
            source=self.plan.source,
            real=self.real,
            key=self.key,
            held_ranges=self.held_ranges,
            granted=self.granted,
            reserved=self.reserved,
        )


class ClaimedFiles:
    """All files of a VM, opened and then locked, and what people should know about the rest."""

    __slots__ = ("files", "listed", "source", "wait", "warnings")

    def __init__(self, files: list[ClaimedFile], warnings: list[str], wait: float) -> None:
        self.files = files
        self.warnings = warnings
        #: seconds for which their locks are tried
        self.wait = wait
        #: the host that still has them, when the VM comes in from there; else empty
        self.source = ""
        #: path of a disk -> the inodes in its folder that the VM's claim before this one left in its list
        self.listed: dict[str, list[int]] = {}

    def close(self) -> None:
        """Close this process's descriptors; the daemon's copies keep the locks."""
        for file in self.files:
            ofd.close(file.fd)


def open_files(vm: VmToClaim, settings: ClaimSettings, progress: ProgressPipe) -> ClaimedFiles:
    """Open all files of a VM, and judge what no lock can guard. Raise VmguardError or OSError."""
    held = held_ranges(settings.excluded_ranges)
    opener = Opener(as_users=tuple(settings.as_users), trusted=tuple(settings.trusted_folders))
    faults.point("planned")
    if vm.storage_mounted is not None:
        progress.stage("waiting for the storage", settings.mount_wait + LOCK_SLACK_S)
        vm.storage_mounted.wait(settings.mount_wait, progress.note)
    _wait_for_shares(vm, settings, progress)
    if (wait := settings.wait) is None:
        from vmguard.hook import claim_wait

        wait = claim_wait.lease_and_grace(settings.server_waits, mountstats.statistics())
        progress.seconds = max(progress.seconds, wait)
    progress.stage("opening the disks")
    resolved = resolve(vm.domain, opener)
    faults.point("opened")
    warnings = _judge_unguarded(resolved.plan.unguarded, settings.policy)
    files = [ClaimedFile(planned, opened.fd, opened.key, held) for opened, planned in resolved.pairs()]
    if vm.storage_mounted is not None:
        for file in files:
            vm.storage_mounted.judge(file.plan.path, file.key[0])
    _refuse_bare_folders(vm, files)
    files = _judge_mounts(files, settings.policy, warnings)
    return ClaimedFiles(files, warnings, wait)


def _wait_for_shares(vm: VmToClaim, settings: ClaimSettings, progress: ProgressPipe) -> None:
    """Wait until the shares below which the VM's files lie are mounted; raise PlanError when they are not in time.

    libvirt's hook waits no longer for them than for a lock: whoever called it waits, too. Nobody waits for a medium
    without which the VM may start.
    """
    files = [source for source in vm.domain.sources if source.kind == FILE]
    paths = [source.path for source in files if source.mode == EXCLUSIVE or not source.is_optional]
    table = list(mounts.mounts())
    if not _may_be_bare(paths, table):
        return
    from vmguard.hook import absent_shares

    seconds = settings.mount_wait if vm.speak is not None else settings.wait or 0.0
    progress.stage("looking for the shares below the disks")
    if absent_shares.missing(paths, table)[0]:
        progress.stage("waiting for a share to be mounted", seconds + LOCK_SLACK_S)
        absent_shares.wait(vm.name, paths, seconds, progress.note)


def _refuse_bare_folders(vm: VmToClaim, files: list[ClaimedFile]) -> None:
    """Raise PlanError if a file that only its opening has shown (of a chain, a pool) lies on a share's bare folder."""
    known = {source.path for source in vm.domain.sources}
    paths = [file.real for file in files if file.real not in known]
    if paths and _may_be_bare(paths, list(mounts.mounts())):
        from vmguard.hook import absent_shares

        absent_shares.refuse(paths)


def _may_be_bare(paths: list[str], table: list[mounts.Mount]) -> bool:
    """Return whether any path, links aside, does not lie on NFS as it should, or lies on the wrong share."""
    if any((mount := mounts.mount_of_path(path, table)) is None or not mount.is_nfs for path in paths):
        return True
    from vmguard.hook import absent_shares

    return bool(paths) and absent_shares.is_inside_another(paths, table)


def free_excluded_ranges(claimed: ClaimedFiles, settings: ClaimSettings) -> None:
    """Unlock what others lock on this host; of a file that is only reserved, nothing of the kind is locked."""
    for file in claimed.files:
        if not file.reserved:
            for excluded in settings.excluded_ranges:
                ofd.unlock(file.fd, excluded)
    faults.point("windows-free")


def _judge_unguarded(unguarded: list[Unguarded], policy: ClaimPolicy) -> list[str]:
    """Return the warnings that the admin's policy wants about storage without locks. Raise PlanError if it refuses."""
    warnings = []
    for item in unguarded:
        text = f"{item.source} is not guarded: {item.reason}"
        verdict = policy.for_kind(item.kind)
        if verdict == "refuse":
            raise PlanError(
                text, "the policy in /etc/vmguard refuses such VMs; change it there if this one may run unguarded"
            )
        if verdict == "warn":
            warnings.append(text)
    return warnings


def _judge_mounts(files: list[ClaimedFile], policy: ClaimPolicy, warnings: list[str]) -> list[ClaimedFile]:
    """Return the files that are to be locked. Raise LockUnavailable if the policy refuses the mount of a writable one.

    A file that the VM cannot write to (a CD, firmware, a backing image) needs no lock that other hosts see.
    """
    table = list(mounts.mounts())
    by_device = {mount.device: mount for mount in table}
    kept = []
    for file in files:
        mount = by_device.get(file.key[0]) or _mount_behind(file.fd, table)
        kind = mounts.kind_of(mount, table)
        if kind == mounts.OTHER:
            from vmguard.hook import claim_other_mount

            locked = claim_other_mount.judge(file.plan, file.fd, mount, policy, warnings)
        else:
            locked = kind == mounts.NFSV4 or policy.local != "ignore"
        if locked:
            file.point = mount.point if kind == mounts.NFSV4 else ""
            kept.append(file)
        else:
            ofd.close(file.fd)
    return kept


def _mount_behind(fd: int, table: list[mounts.Mount]) -> mounts.Mount:
    """Return the mount of an open file whose device no mount has: btrfs gives each subvolume one of its own."""
    from vmguard.adapters.linux import proc

    mount_id = proc.fdinfo("self", fd).mount_id
    hidden = mounts.Mount(mount_id, 0, "its mount", "hidden", "", "")
    return next((mount for mount in table if mount.id == mount_id), hidden)


def lock_all_or_none(vm: VmToClaim, claimed: ClaimedFiles, settings: ClaimSettings, progress: ProgressPipe) -> None:
    """Lock the files, retrying until the allowed wait is over. Raise LockConflict with the holder's name."""
    began = boottime()
    deadline = began + claimed.wait
    pause = _FIRST_RETRY_S
    next_line = began + _FIRST_PROGRESS_S
    progress.stage("locking the disks", claimed.wait + LOCK_SLACK_S)
    tries = 0
    while True:
        try:
            if not (kept_back := _try_to_lock(claimed.files)):
                return
            from vmguard.hook import claim_delegated

            for file in kept_back:
                claim_delegated.give_back(file.plan.path, file.fd, file.real, tries)
            tries += 1
        except LockConflict as conflict:
            left = deadline - boottime()
            progress.check()
            blocked = next(file for file in claimed.files if file.plan.path == conflict.path)
            if vm.speak is not None and left > _FIRST_PROGRESS_S and boottime() >= next_line:
                next_line = boottime() + PROGRESS_INTERVAL_S
                from vmguard.hook import wait_line

                progress.note(wait_line.of(blocked.plan.path, blocked.fd, settings.record.folder, left))
            if left <= 0:
                progress.stage(f"asking who holds {blocked.plan.path}", settings.timeout)
                raise refusal(vm, blocked, settings, boottime() - began) from None
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LAST_RETRY_S)


def _try_to_lock(files: list[ClaimedFile]) -> list[ClaimedFile]:
    """Lock all files once; if one cannot be locked, unlock the others and raise its LockConflict.

    The files come in an order that is the same on every host, so that of two hosts one wins.
    Return those whose locks did not leave this host's NFS client.
    """
    locked: list[ClaimedFile] = []
    before = mountstats.lock_requests() if any(file.point for file in files) else {}
    try:
        for file in files:
            file.lock(WHOLE)
            locked.append(file)
            faults.point("first-lock")
    except LockConflict:
        for file in locked:
            ofd.unlock(file.fd, WHOLE)
        raise
    faults.point("all-locked")
    return stay_here(files, before)


def stay_here(
    files: list[ClaimedFile],
    before: dict[str, int],
    requests: Callable[[], dict[str, int]] = mountstats.lock_requests,
) -> list[ClaimedFile]:
    """Return the files whose exclusive locks stayed in this client.

    ``before``: LOCK requests before they were taken, by mount point; ``requests`` reads them.
    """
    exclusive = [file for file in files if file.point and file.plan.mode == EXCLUSIVE]
    kept = [file for file in exclusive if ofd.stays_here(file.fd)]
    if kept or not exclusive:
        return kept
    after = requests()
    sent = {point: after[point] - count for point, count in before.items() if point in after}
    few = [point for point, count in sent.items() if count < sum(file.point == point for file in exclusive)]
    return [file for file in exclusive if file.point in few]


def refusal(vm: VmToClaim, file: ClaimedFile, settings: ClaimSettings, waited: float = 0.0) -> LockConflict:
    """Return the error that says who has a file locked, after ``waited`` seconds of retries. It asks the share."""
    import datetime

    from vmguard.adapters.storage import lock_holder
    from vmguard.core.locks.refusal import Here, in_use

    identity = settings.identity
    here = Here(identity.host, identity.machine, identity.boot)
    found = lock_holder.describe(file.plan.path, file.fd, settings.record.folder)
    now = datetime.datetime.now(datetime.UTC)
    lines, hint = in_use(file.plan.path, vm.name, here, found, now, waited)
    return LockConflict(file.plan.path, lines[0], hint, lines[1:])


def earlier_disks(
    vm: VmToClaim, claimed: ClaimedFiles, settings: ClaimSettings
) -> list[tuple[list[ClaimedFile], list[int]]]:
    """Return the inodes that the VM's last claim locked and this one does not, with this claim's files beside them.

    Nearly always none: they are what claim_replaced.py looks at.
    """
    from vmguard.adapters.storage import owner_record

    found = []
    for files in _by_folder(claimed):
        try:
            listed = owner_record.listed_disks(files[0].real, settings.record.folder, vm.id)
        except OSError:
            continue  # no list: nothing is known, as without records
        inodes = [file.key[1] for file in files]
        claimed.listed[files[0].real] = listed
        others = [inode for inode in listed if inode not in inodes]
        if others:
            found.append((files, others))
    return found


def _by_folder(claimed: ClaimedFiles) -> list[list[ClaimedFile]]:
    """Return the files that get a record, those of one folder together."""
    folders: dict[str, list[ClaimedFile]] = {}
    for file in claimed.files:
        if file.plan.mode == EXCLUSIVE and not file.reserved:
            folders.setdefault(os.path.dirname(file.real), []).append(file)
    return list(folders.values())


def _list_disks(vm: VmToClaim, settings: ClaimSettings, claimed: ClaimedFiles) -> None:
    """Leave a list of the VM's disks in each folder where the one that is there is another."""
    from vmguard.adapters.storage import owner_record

    for files in _by_folder(claimed):
        real, inodes = files[0].real, [file.key[1] for file in files]
        if claimed.listed.get(real) == inodes:
            continue
        try:
            owner_record.as_owner(
                real,
                lambda: owner_record.list_disks(real, settings.record.folder, vm.id, inodes),  # noqa: B023
            )
        except OSError:
            pass  # a share that takes no records has been reported


def write_records(vm: VmToClaim, settings: ClaimSettings, claimed: ClaimedFiles) -> tuple[dict[str, int], list[str]]:
    """Write the owner records; return their epochs by inode, and problems in words."""
    fields = {
        **settings.identity.as_json(),
        "hypervisor": vm.hypervisor,
        "vm": vm.name,
        "uuid": vm.uuid,
        "claimed": settings.now,
    }
    epochs, problems = {}, []
    for file in claimed.files:
        if file.plan.mode != EXCLUSIVE or file.reserved:
            continue
        fields["path"] = file.plan.path
        try:
            epochs[str(file.key[1])] = _write_record(file, settings.record.folder, fields)
        except OSError as problem:
            problems.append(f"no owner record for {file.plan.path}: {problem.strerror}")
    _list_disks(vm, settings, claimed)
    return epochs, problems


def _write_record(file: ClaimedFile, folder: str, fields: dict[str, str]) -> int:
    from vmguard.adapters.storage import owner_record

    return owner_record.as_owner(file.real, lambda: owner_record.write_claim(file.real, folder, file.key[1], fields))
