"""What the commands tell about a VM or a file: find it, ask the daemon and the share, judge, and word the answer."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import host_identity, may_block, proc
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.health import REPLACED_TODO, Finding, Health, findings, of_findings
from vmguard.core.reports.local_time import local_time
from vmguard.core.reports.status import Status
from vmguard.core.reports.vm_report import DiskReport, DiskStatus, VmReport
from vmguard.core.words import printable, shell_word, vm_title
from vmguard.errors import VmguardError
from vmguard.query import ask_share, host_state, judge, other_mounts, wording
from vmguard.query.answers import FileAnswer, Known, LockOnShare, VmAnswer
from vmguard.query.lookup import Found, find
from vmguard.query.places import Places


def check(wanted: str, places: Places, known: Known, fenced: Sequence[FencedVm] = ()) -> VmReport:
    """Report on one VM, by id, name or uuid. ``known``: what the daemon says; ``fenced``: VMs that were killed lately.

    Raises BadInput when nobody knows it, StorageTimeout when the search for it on the shares takes too long.
    """
    found = find(wanted, known.vms, places)
    if found.guarded is not None and not known.problem:
        now = ask_share.with_replaced(found.guarded, ask_share.replaced_now([found.guarded], places))
        found = dataclasses.replace(found, guarded=now)
        known = known._replace(vms=[now if vm.uuid == now.uuid else vm for vm in known.vms])
    report = VmReport(found.name, found.uuid, found.hypervisor, "", "", daemon=known.problem or "up")
    report.unguarded = found.plan.unguarded
    report.fenced = [killed for killed in fenced if killed.uuid == found.uuid]
    state = host_state.of(known, fenced).only([found.uuid])
    report.findings = findings(state, datetime.datetime.now(datetime.UTC))
    if known.health.disarmed is not None:
        report.disarmed = known.health.disarmed.sentence
    if found.guarded is not None:
        _report_guarded(report, found.guarded, bool(known.problem), places)
        _name_targets(report, places)
    else:
        _report_from_share(report, found, places)
    report.summary = wording.summary(report)
    return report


def elsewhere(file: FileAnswer, places: Places) -> str:
    """Say who has a file locked that is wanted here; empty when nobody has. Raises VmguardError."""
    lock = ask_share.lock_of(file.path, file.mode, places)
    disk = _disk_on_share(file.path, file.mode, file.role, lock)
    return disk.text if lock.conflict else ""


# -- a VM -----------------------------------------------------------------------------------------------------------


def _report_guarded(report: VmReport, vm: VmAnswer, daemon_down: bool, places: Places) -> None:
    others = {item.path: item for item in other_mounts.of_vm(vm, not daemon_down)}
    for file in vm.files:
        verdict = judge.verdict_here(file)
        todo = REPLACED_TODO if file.replaced else f"vmguard adopt {shell_word(vm.name)}"
        text = wording.guard_words(file, local_time(vm.claimed, datetime.datetime.now(datetime.UTC)))
        if file.path in others and verdict is DiskStatus.GUARDED_HERE:
            verdict, text = DiskStatus.OTHER_MOUNT, f"{text}; but {others[file.path].why}"
        report.disks.append(
            DiskReport(
                path=file.path,
                role=file.role,
                mode=file.mode,
                verdict=verdict,
                text=text,
                exact=wording.exact_words(file) if verdict is DiskStatus.GUARDED_HERE else "",
                todo=todo if verdict is DiskStatus.UNGUARDED_HERE else "",
                ranges=file.ranges,
                guard=file.guard,
                through=file.through,
                weaker=file.unpinned_reason,
            )
        )
    report.disks += [
        DiskReport(item.path, DISK, EXCLUSIVE, DiskStatus.OTHER_MOUNT, f"NOT locked here: {item.why}")
        for item in others.values()
        if not item.is_locked
    ]
    report.watch = vm.watch.json if vm.watch is not None else None
    report.state = wording.stance(vm)
    if vm.state not in LIVING:
        text = f"{vm_title(vm.name)} has no QEMU that runs: {vm.why or vm.state}"
        report.findings = [*report.findings, Finding(Status.WARNING, text)]


def _name_targets(report: VmReport, places: Places) -> None:
    """Name the host that a VM migrates to: the target writes its owner record once it has the lock, not before."""
    for disk in report.disks:
        if disk.verdict is not DiskStatus.OUTGOING:
            continue
        try:
            owner = ask_share.lock_of(disk.path, disk.mode, places).owner
        except VmguardError:
            continue  # the name is a courtesy
        if owner and owner.uuid == report.uuid and owner.boot != host_identity.boot_id() and not owner.released:
            disk.owner = owner
            disk.text += f": {printable(owner.host)}"


def _report_from_share(report: VmReport, found: Found, places: Places) -> None:
    run_dirs = RunDirs(places.libvirt_run_dir, places.proxmox_run_dir)
    read = functools.partial(may_block.cmdline_within, places.timeout)
    pid = hypervisors.qemu_pid(run_dirs, found.hypervisor, found.name, found.uuid, read)
    if found.problem:
        report.disks.append(DiskReport("", "", "", DiskStatus.UNKNOWN, found.problem))
    for file in found.plan.files:
        try:
            disk = _disk_on_share(file.path, file.mode, file.role, ask_share.lock_of(file.path, file.mode, places))
        except VmguardError as problem:
            disk = DiskReport(file.path, file.role, file.mode, DiskStatus.UNKNOWN, problem.message, problem.hint)
        if pid is not None and disk.verdict in (DiskStatus.FREE, DiskStatus.OTHER_MOUNT):
            disk.verdict = DiskStatus.UNGUARDED_HERE
            disk.text = f"QEMU (pid {pid}) runs on this host and nothing locks this file"
            disk.todo = f"vmguard adopt {shell_word(found.name)}"
        report.disks.append(disk)


def _disk_on_share(path: str, mode: str, role: str, lock: LockOnShare) -> DiskReport:
    holder = judge.holder_of(lock, host_identity.host_name())
    now = datetime.datetime.now(datetime.UTC)
    verdict, text = judge.VERDICTS[holder], wording.holder_words(holder, lock, now)
    why = lock.bare or (lock.other_mount if mode == EXCLUSIVE else "")
    if why:
        verdict, text = DiskStatus.OTHER_MOUNT, f"{text}; but {why}"
    return DiskReport(
        path=path,
        role=role,
        mode=mode,
        verdict=verdict,
        text=text,
        todo=wording.holder_todo(holder, lock, now),
        exact=wording.exact_holder(lock),
        owner=lock.owner,
    )


# -- a file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenHere:
    """A process of this host that has a file open."""

    pid: int
    name: str
    writable: bool

    def as_json(self) -> dict[str, object]:
        return {"pid": self.pid, "name": self.name, "writable": self.writable}


@dataclass(frozen=True)
class FileReport:
    """Who holds one file: the VMs and processes of this host, and the lock as the server sees it."""

    disk: DiskReport
    vms: Sequence[VmAnswer]
    processes: Sequence[OpenHere]
    health: Health
    #: why the daemon could not be asked; ``up`` when it could
    daemon: str
    inode: int = 0
    #: whether the share refuses a lock on it
    conflict: bool = False

    def as_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "status": self.health.severity.name,
            "health": self.health.as_json(),
            **self.disk.as_json(),
            "vms": [vm.json for vm in self.vms],
            "processes": [process.as_json() for process in self.processes],
            "daemon": self.daemon,
            "storage": None,
        }


def _is_at(file: FileAnswer, path: str, inode: int) -> bool:
    """Return whether a VM's file is this one, or was at this path until another took its place."""
    return file.inode == inode or (file.path == path and bool(file.replaced))


def who(path: str, places: Places, known: Known, fenced: Sequence[FencedVm] = ()) -> FileReport:
    """Report who holds one file. ``known``, ``fenced``: as for ``check``.

    Raises VmguardError when it cannot be opened, or in time.
    """
    lock = ask_share.lock_of(path, EXCLUSIVE, places)
    disk = _disk_on_share(path, EXCLUSIVE, DISK, lock)
    replaced = ask_share.replaced_now([vm for vm in known.vms if any(file.path == path for file in vm.files)], places)
    known = known._replace(vms=[ask_share.with_replaced(vm, replaced) for vm in known.vms])
    here = [vm for vm in known.vms if any(_is_at(file, path, lock.inode) for file in vm.files)]
    users = [
        OpenHere(user.pid, proc.name(user.pid), user.info.writable)
        for pid in proc.pids()
        for user in proc.open_files(pid, {lock.inode})
    ]
    if any(file.replaced and file.path == path for vm in here for file in vm.files):
        disk.text = f"this file is not the one that {vm_title(here[0].name)} runs on; {disk.text}"
    elif here:
        disk.verdict = DiskStatus.OTHER_MOUNT if lock.other_mount else DiskStatus.GUARDED_HERE
        word = "locked" if lock.other_mount else "guarded"
        disk.text = f"{word} here by " + ", ".join(f"VM '{printable(vm.name)}' ({wording.stance(vm)})" for vm in here)
        disk.text += f"; but {lock.other_mount}" if lock.other_mount else ""
        disk.todo = ""
    found = findings(host_state.of(known, fenced).only(vm.uuid for vm in here), datetime.datetime.now(datetime.UTC))
    if not found and disk.status is not Status.OK:
        found.append(Finding(disk.status, f"{disk.path}: {disk.text}", disk.todo))
    health = of_findings(found, f"{disk.path}: {disk.text}")
    return FileReport(disk, here, users, health, known.problem or "up", lock.inode, lock.conflict)
