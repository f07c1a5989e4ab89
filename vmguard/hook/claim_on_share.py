"""The claim's work on the share: open, judge, lock all or none, free the windows, write the owner records.

Runs only in the hook's child (vmguard/hook/claim.py): each call here may hang on NFS.
"""

from __future__ import annotations

import os
import time

from vmguard import faults
from vmguard.adapters.linux import mounts, ofd
from vmguard.adapters.storage.backing_chain import resolve
from vmguard.adapters.storage.files import Opener
from vmguard.core.locks.plan import EXCLUSIVE, NETWORK, Unguarded
from vmguard.core.locks.ranges import WHOLE, held_ranges
from vmguard.errors import LockConflict, LockUnavailable, PlanError
from vmguard.hook.claimed_file import Claimed, ClaimedFile, boottime
from vmguard.hook.vm_to_claim import LOCK_SLACK, SAY_EVERY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmguard.hook.vm_to_claim import Ground, Reporter, Subject

#: seconds; the first pause between two tries, doubled up to the last
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 0.5
#: seconds; a lease as servers have it by default, and what is added to lease and grace
_USUAL_LEASE, _LEAST_MARGIN = 90.0, 5.0


def open_and_lock(subject: Subject, settings: dict[str, Any], reporter: Reporter) -> Claimed:
    """Everything between the daemon's settings and the hand-over. Raises VmguardError or OSError: nothing stays locked
    then, because the descriptors end with this process."""
    pieces = held_ranges([(start, length) for start, length in settings["windows"]])
    opener = Opener(as_users=tuple((uid, gid) for uid, gid in settings["as_users"]))
    faults.point("planned")
    if subject.ground is not None:
        reporter.stage("waiting for the storage", settings["mount_wait"] + LOCK_SLACK)
        subject.ground.wait(settings["mount_wait"], reporter.note)
    if settings["wait"] is None:
        settings["wait"] = wait = _lease_and_grace()
        reporter.seconds = max(reporter.seconds, wait)
    reporter.stage("opening the disks")
    resolved = resolve(subject.domain, opener)
    faults.point("opened")
    warnings = _judge_unguarded(resolved.plan.unguarded, settings["policy"])
    files = [ClaimedFile(planned, opened.fd, opened.key, pieces) for opened, planned in resolved.pairs()]
    if subject.ground is not None:
        files = _judge_ground(subject.ground, files, settings["policy"], warnings)
    files = _judge_mounts(files, settings["policy"], warnings)
    source = ""
    if settings.get("incoming") is None:  # also of a daemon that is older than this hook
        _lock_patiently(subject, files, settings, reporter)
    else:
        from vmguard.hook import claim_incoming

        source = claim_incoming.lock(
            subject, files, settings, reporter, lambda file: _refusal(subject, file, settings, 0.0)
        )
    for file in files if not source else [file for file in files if not file.foothold]:
        for start, length in settings["windows"]:
            ofd.unlock(file.fd, (start, length))
    faults.point("windows-free")
    return Claimed(files, warnings, source)


def _judge_unguarded(unguarded: list[Unguarded], policy: dict[str, str]) -> list[str]:
    """What the admin's policy makes of storage that no lock covers. Raises PlanError where it refuses."""
    warnings = []
    for item in unguarded:
        text = f"{item.source} is not guarded: {item.reason}"
        verdict = policy.get(item.kind, "warn")
        if verdict == "refuse":
            raise PlanError(
                text, "the policy in /etc/vmguard refuses such VMs; change it there if this one may run unguarded"
            )
        if verdict == "warn":
            warnings.append(text)
    return warnings


def _lease_and_grace() -> float:
    """How long a dead host's lock can stand in the way: its lease, and the grace period of a server that comes back.

    No client is told the grace period; servers make it as long as the lease.
    """
    lease = max((known.lease for known in mounts.statistics().values()), default=0.0) or _USUAL_LEASE
    return 2 * lease + max(_LEAST_MARGIN, lease / 10)


def _judge_ground(
    ground: Ground, files: list[ClaimedFile], policy: dict[str, str], warnings: list[str]
) -> list[ClaimedFile]:
    """Drop what must not be locked, refuse what does not lie where it should."""
    kept = []
    for file in files:
        why = ground.judge(file.plan.path, file.key[0])
        if why:
            os.close(file.fd)
            warnings += _judge_unguarded([Unguarded(file.plan.source, why, NETWORK)], policy)
        else:
            kept.append(file)
    return kept


def _judge_mounts(files: list[ClaimedFile], policy: dict[str, str], warnings: list[str]) -> list[ClaimedFile]:
    """Drop what need not be locked, refuse what cannot be locked truly."""
    by_device = {mount.device: mount for mount in mounts.mounts()}
    kept, seen = [], set()
    for file in files:
        mount = by_device.get(file.key[0])
        if policy["local"] == "ignore" and mount is not None and not mount.is_nfs:
            os.close(file.fd)
            continue
        kept.append(file)
        why = mounts.why_unsafe(mount) if mount is not None else ""
        if why and policy["unsafe_mounts"] == "refuse":
            raise LockUnavailable(
                file.plan.path, f"disk {file.plan.path} cannot be guarded: {why}", "mount it with vers=4.2,hard"
            )
        if why and why not in seen:
            seen.add(why)
            warnings.append(why)
    return kept


def _lock_patiently(subject: Subject, files: list[ClaimedFile], settings: dict[str, Any], reporter: Reporter) -> None:
    """Lock all or none, trying again until the allowed wait is over. Raises LockConflict with the holder's name."""
    began = boottime()
    deadline = began + settings["wait"]
    pause = _FIRST_PAUSE
    next_line = began + 1.0
    reporter.stage("locking the disks", settings["wait"] + LOCK_SLACK)
    while True:
        try:
            _lock_all(files)
            return
        except LockConflict as conflict:
            left = deadline - boottime()
            reporter.check()
            if subject.speak is not None and left > 1.0 and boottime() >= next_line:
                next_line = boottime() + SAY_EVERY
                reporter.note(_waiting(files, conflict.path, settings, left))
            if left <= 0:
                blocked = next(file for file in files if file.plan.path == conflict.path)
                reporter.stage(f"asking who holds {blocked.plan.path}", settings["timeout"])
                raise _refusal(subject, blocked, settings, boottime() - began) from None
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LAST_PAUSE)


def _lock_all(files: list[ClaimedFile]) -> None:
    """One try. The files come in an order that is the same on every host, so that of two hosts one wins."""
    locked: list[ClaimedFile] = []
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


def _waiting(files: list[ClaimedFile], path: str, settings: dict[str, Any], left: float) -> str:
    from vmguard.adapters.storage import lock_holder
    from vmguard.hook.wait_line import line

    blocked = next(file for file in files if file.plan.path == path)
    return line(path, lock_holder.describe(path, blocked.fd, settings["record"]["folder"]), left)


def _refusal(subject: Subject, file: ClaimedFile, settings: dict[str, Any], waited: float) -> LockConflict:
    import datetime

    from vmguard.adapters.storage import lock_holder
    from vmguard.core.locks import refusal

    identity = settings["identity"]
    here = refusal.Here(identity["host"], identity["machine"], identity["boot"])
    found = lock_holder.describe(file.plan.path, file.fd, settings["record"]["folder"])
    now = datetime.datetime.now(datetime.UTC)
    message, hint = refusal.in_use(file.plan.path, subject.name, here, found, now, waited)
    return LockConflict(file.plan.path, message, hint)


def write_records(subject: Subject, settings: dict[str, Any], claimed: Claimed) -> tuple[dict[str, int], list[str]]:
    """The owner records of the exclusive files, behind the start: epochs by inode, and what went wrong."""
    fields = {
        **settings["identity"],
        "hypervisor": subject.hypervisor,
        "vm": subject.name,
        "uuid": subject.uuid,
        "claimed": settings["now"],
    }
    epochs, problems = {}, []
    for file in claimed.files:
        if file.plan.mode != EXCLUSIVE or file.foothold:
            continue
        fields["path"] = file.plan.path
        try:
            epochs[str(file.key[1])] = _write_record(file, settings["record"]["folder"], fields)
        except OSError as problem:
            problems.append(f"no owner record for {file.plan.path}: {problem.strerror}")
    return epochs, problems


def _write_record(file: ClaimedFile, folder: str, fields: dict[str, str]) -> int:
    from vmguard.adapters.storage import owner_record  # behind the start

    return owner_record.as_owner(file.real, lambda: owner_record.write_claim(file.real, folder, file.key[1], fields))
