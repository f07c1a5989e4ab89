"""Looks a VM up and finds out about each of its files: from the daemon, /run, libvirt's files and the share.

Used by the command line, also when the daemon is down. Everything that touches the share runs in a bounded child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import bounded_child, host_identity, may_block, mounts, ofd, proc, statefile
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.adapters.storage import lock_holder, owner_record
from vmguard.adapters.storage.backing_chain import plan_of, resolve
from vmguard.adapters.storage.files import Opener, ReadOnlyOpener
from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.core import LIBVIRT, PROXMOX
from vmguard.core.locks.owner_record import TEXT_FIELDS, Owner
from vmguard.core.locks.plan import DISK, EXCLUSIVE, Plan, printable
from vmguard.core.locks.ranges import WHOLE
from vmguard.core.locks.refusal import ago
from vmguard.core.reports.vm_report import GUARDED, DiskReport, Status, Verdict, VmReport, guard_words
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import BadInput, DaemonError, VmguardError
from vmguard.protocol.client import Daemon

#: folders below a mount point that are searched for owner records
_SEARCH_DEPTH = 4


@dataclass(frozen=True)
class Places:
    """Where to look; all of it comes from the configuration."""

    run_dir: str
    libvirt_run_dir: str
    libvirt_config_dir: str
    record_folder: str
    proxmox_run_dir: str = proxmox_host.RUN_DIR
    proxmox_config_dir: str = proxmox_host.CONFIG_DIR
    #: seconds that the storage gets to answer
    timeout: float = 10.0


@dataclass
class Found:
    """A VM by name: what this host guards of it, and its files as its configuration names them."""

    name: str
    uuid: str
    hypervisor: str
    guarded: dict[str, Any] | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    unguarded: list[dict[str, str]] = field(default_factory=list)
    problem: str = ""


def guarded_vms(places: Places) -> tuple[list[dict[str, Any]], str]:
    """All VMs that this host guards, and why the daemon could not be asked (empty when it could).

    Without the daemon its state files answer: what it guarded when it was last alive.
    """
    try:
        with Daemon(places.run_dir) as daemon:
            return daemon.status(), ""
    except DaemonError as problem:
        return list(_from_state(places)), problem.message


def stance(vm: dict[str, Any]) -> str:
    """The one word for a VM: the life of its claim, or what the watchdog does to it."""
    if vm.get("fencing"):
        return "fencing"
    if vm.get("frozen"):
        return "frozen"
    return f"incoming from {vm['incoming']}" if vm.get("incoming") else str(vm["state"])


def health(places: Places) -> dict[str, Any]:
    """The leases of all mounts, fences, whether the watchdog is disarmed; empty when the daemon is down."""
    try:
        with Daemon(places.run_dir) as daemon:
            return daemon.health()
    except DaemonError:
        return {}


def _from_state(places: Places) -> Iterator[dict[str, Any]]:
    folder = os.path.join(places.run_dir, "vms")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        value = statefile.read(os.path.join(folder, name)) if name.endswith(".json") else None
        if value is not None and isinstance(value.get("files"), list):
            yield value


def check(wanted: str, places: Places) -> VmReport:
    """The report on one VM, by id, name or uuid. Raises BadInput when nobody knows it."""
    vms, daemon_problem = guarded_vms(places)
    found = _find(wanted, vms, places)
    report = VmReport(found.name, found.uuid, found.hypervisor, "", "", daemon=daemon_problem or "up")
    report.unguarded = found.unguarded
    if found.guarded is not None:
        _report_guarded(report, found.guarded, bool(daemon_problem))
        _name_targets(report, places)
    else:
        _report_from_share(report, found, places)
    report.summary = _summary(report)
    return report


# -- finding a VM ---------------------------------------------------------------------------------------------------


def _find(wanted: str, vms: list[dict[str, Any]], places: Places) -> Found:
    for vm in vms:
        if wanted in (vm["name"], vm["uuid"]):
            return Found(vm["name"], vm["uuid"], vm["hypervisor"], guarded=vm)
    for xml in _domain_files(wanted, places):
        try:
            domain = parse_domain(xml)
        except VmguardError:
            continue
        if wanted in (domain.name, domain.uuid):
            found = Found(domain.name, domain.uuid, LIBVIRT)
            return _planned(found, lambda xml=xml: plan_of(xml, pools=Pools()), places)  # type: ignore[misc]
    on_proxmox = _proxmox_vm(wanted, places)
    if on_proxmox is not None:
        return on_proxmox
    recorded: list[dict[str, Any]] = bounded_child.run(
        lambda: _search_records(wanted, places.record_folder), places.timeout, "searching the owner records"
    )
    if not recorded:
        raise BadInput(
            f"no VM {wanted!r} is known on this host, and no owner record on its NFS mounts names it",
            "give its name or uuid as libvirt has it, or its VMID; vmguard status lists what this host guards",
        )
    first = recorded[0]
    return Found(first["vm"], first["uuid"], first["hypervisor"], files=[_as_disk(item) for item in recorded])


def _proxmox_vm(wanted: str, places: Places) -> Found | None:
    """A VM of this Proxmox cluster, whichever node owns it, by VMID or name. None when there is none."""
    folder = places.proxmox_config_dir
    for vmid, node in proxmox_host.owners(folder):
        try:
            config = proxmox_host.read_config(folder, vmid, node)
        except VmguardError:
            continue
        if wanted in (vmid, config.name):

            def plan(vmid: str = vmid, node: str = node) -> Plan:
                resolved = resolve(proxmox_host.read_vm(folder, vmid, node).domain, ReadOnlyOpener())
                resolved.close()
                return resolved.plan

            return _planned(Found(config.name, vmid, PROXMOX), plan, places)
    return None


def _planned(found: Found, plan_it: Callable[[], Plan], places: Places) -> Found:
    try:
        plan = bounded_child.run(lambda: plan_it().as_json(), places.timeout, "reading the image headers")
        found.files, found.unguarded = plan["files"], plan["unguarded"]
    except VmguardError as problem:
        found.problem = problem.message
    return found


def _domain_files(wanted: str, places: Places) -> Iterator[bytes]:
    """The domain XML files of libvirt on this host, the likely one first."""
    for folder in (places.libvirt_run_dir, places.libvirt_config_dir):
        try:
            names = [name for name in os.listdir(folder) if name.endswith(".xml")]
        except OSError:
            continue
        for name in sorted(names, key=lambda name: name != f"{wanted}.xml"):
            try:
                with open(os.path.join(folder, name), "rb") as stream:
                    yield stream.read()
            except OSError:
                continue


def _search_records(wanted: str, folder_name: str) -> list[dict[str, Any]]:
    """In a bounded child: all owner records below this host's NFS mounts whose last claim names the VM."""
    found: list[dict[str, Any]] = []
    for mount in mounts.mounts():
        if not mount.is_nfs or not folder_name:
            continue
        for folder, below, names in os.walk(mount.point):
            if folder[len(mount.point) :].count("/") >= _SEARCH_DEPTH:
                below.clear()
            if os.path.basename(folder) != folder_name:
                continue
            for name in sorted(names):
                owner = owner_record.last_claim(os.path.join(folder, name))
                if owner is not None and wanted in (owner.vm, owner.uuid):
                    found.append({**owner.as_json(), "folder": os.path.dirname(folder)})
    return found


def _as_disk(item: dict[str, Any]) -> dict[str, Any]:
    path = os.path.join(item["folder"], os.path.basename(item["path"]))
    return {"path": path, "role": DISK, "mode": EXCLUSIVE, "source": "owner record"}


# -- reporting ------------------------------------------------------------------------------------------------------


def _report_guarded(report: VmReport, vm: dict[str, Any], daemon_down: bool) -> None:
    report.state = vm["state"]
    for file in vm["files"]:
        verdict = GUARDED.get(file["guard"], Verdict.UNGUARDED_HERE)
        text = guard_words(file)
        if verdict is Verdict.GUARDED_HERE:
            text += f", since {vm['claimed']}"
        report.disks.append(
            DiskReport(
                path=file["path"],
                role=file["role"],
                mode=file["mode"],
                verdict=verdict,
                text=text,
                todo="vmguard adopt" if verdict is Verdict.UNGUARDED_HERE else "",
                ranges=file["ranges"],
                guard=file["guard"],
                through=file.get("through", ""),
                weaker=file.get("weaker", ""),
            )
        )
        if file.get("weaker"):
            report.floor = Status.WARNING
    report.watch = vm.get("watch")
    if daemon_down or vm["state"] not in ("running", "incoming") or vm.get("frozen"):
        report.floor = Status.WARNING
    if vm.get("fencing") or vm["state"] == "conflict":
        report.floor = Status.CRITICAL
    report.state = stance(vm)


def _name_targets(report: VmReport, places: Places) -> None:
    """Where a VM is leaving to: its target writes itself into the owner record once it has the lock, not before."""
    for disk in report.disks:
        if disk.verdict is not Verdict.OUTGOING:
            continue
        try:
            value = _ask_bounded({"path": disk.path, "mode": disk.mode}, places)["owner"]
        except VmguardError:
            continue  # the name is a courtesy
        if (
            value
            and value["uuid"] == report.uuid
            and value["boot"] != host_identity.boot_id()
            and not value["released"]
        ):
            disk.owner = Owner(value["epoch"], **{name: value[name] for name in TEXT_FIELDS})
            disk.text += f": {printable(disk.owner.host)}"


def elsewhere(file: dict[str, Any], places: Places) -> str:
    """Who has a file locked that is wanted here, in words; empty when nobody has. Raises VmguardError."""
    disk = DiskReport(file["path"], file["role"], file["mode"], Verdict.UNKNOWN, "")
    _judge(disk, _ask_bounded(file, places))
    return "" if disk.verdict is Verdict.FREE else disk.text


def _report_from_share(report: VmReport, found: Found, places: Places) -> None:
    run_dirs = RunDirs(places.libvirt_run_dir, places.proxmox_run_dir)
    read = partial(may_block.cmdline_within, places.timeout)
    pid = hypervisors.qemu_pid(run_dirs, found.hypervisor, found.name, found.uuid, read)
    if found.problem:
        report.disks.append(DiskReport("", "", "", Verdict.UNKNOWN, found.problem))
    for file in found.files:
        disk = DiskReport(file["path"], file["role"], file["mode"], Verdict.UNKNOWN, "")
        try:
            _judge(disk, _ask_bounded(file, places))
        except VmguardError as problem:
            disk.text, disk.todo = problem.message, problem.hint
        if pid is not None and disk.verdict is Verdict.FREE:
            disk.verdict = Verdict.UNGUARDED_HERE
            disk.text = f"QEMU (pid {pid}) runs on this host and nothing locks this file"
            disk.todo = "vmguard adopt"
        report.disks.append(disk)


def _ask_bounded(file: dict[str, Any], places: Places) -> dict[str, Any]:
    what = f"asking for {file['path']}"
    answer: dict[str, Any] = bounded_child.run(lambda: _ask(file, places.record_folder), places.timeout, what)
    return answer


def _ask(file: dict[str, Any], folder: str) -> dict[str, Any]:
    """In a bounded child: who stands in the way of this file's lock, and its owner record."""
    opened = Opener(writable=False).open(file["path"], file["mode"], file["path"])
    try:
        kind = ofd.WRITE if file["mode"] == EXCLUSIVE else ofd.READ
        conflict = ofd.conflict(opened.fd, kind, WHOLE)
        found = lock_holder.describe(file["path"], opened.fd, folder)
    finally:
        opened.close()
    return {
        "conflict": conflict is not None,
        "owner": found.owner.as_json() if found.owner is not None else None,
        "problem": found.record_problem,
        "local": list(found.local_users),
        "lease": found.lease,
        "inode": opened.key[1],
    }


def _judge(disk: DiskReport, answer: dict[str, Any]) -> None:
    value = answer["owner"]
    owner = Owner(value["epoch"], **{name: value[name] for name in TEXT_FIELDS}) if value else None
    disk.owner = owner
    if not answer["conflict"]:
        disk.verdict = Verdict.FREE
        last = f"; last held by {printable(owner.host)} (epoch {owner.epoch}, claimed {owner.claimed})" if owner else ""
        disk.text = "free: nobody has it locked" + last
        return
    if answer["local"] and (owner is None or owner.host != host_identity.host_name()):
        disk.verdict = Verdict.HELD_BY_UNKNOWN
        disk.text = "locked by a process of this host: " + ", ".join(answer["local"])
        return
    if owner is None or owner.released:
        disk.verdict = Verdict.HELD_BY_UNKNOWN
        disk.text = (
            f"locked by somebody who does not use vmguard ({answer['problem'] or 'no owner record of a present claim'})"
        )
        disk.todo = "look for QEMU or qemu-img on the other hosts that mount this share"
        return
    disk.verdict = Verdict.HELD_ELSEWHERE
    disk.text = f"held by {printable(owner.host)} since {owner.claimed} ({_ago(owner)}), epoch {owner.epoch}"
    if answer["lease"] is not None:
        disk.todo = (
            f"if {printable(owner.host)} is dead, its lock ends {answer['lease']:.0f} s after its last contact with the"
            f" server: a start can succeed from {_clock(answer['lease'] + 1)} on at the latest"
        )


def _ago(owner: Owner) -> str:
    import datetime

    return ago(owner.claimed, datetime.datetime.now(datetime.UTC))


def _clock(seconds: float) -> str:
    import datetime

    return f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds):%H:%M:%S} UTC"


def _summary(report: VmReport) -> str:
    verdicts = {disk.verdict for disk in report.disks}
    if report.state.startswith("incoming ") and verdicts <= {Verdict.GUARDED_HERE, Verdict.INCOMING}:
        return report.state
    if Verdict.OUTGOING in verdicts and verdicts <= {Verdict.GUARDED_HERE, Verdict.OUTGOING}:
        targets = {disk.owner.host for disk in report.disks if disk.owner is not None}
        return "outgoing to " + (", ".join(printable(host) for host in sorted(targets)) or "another host")
    if report.state:
        return (
            f"guarded here, {report.state}"
            if verdicts == {Verdict.GUARDED_HERE}
            else f"{report.state} here, but not fully guarded"
        )
    if Verdict.UNGUARDED_HERE in verdicts:
        return "running here UNGUARDED"
    if Verdict.HELD_ELSEWHERE in verdicts:
        hosts = sorted(
            {disk.owner.host for disk in report.disks if disk.verdict is Verdict.HELD_ELSEWHERE and disk.owner}
        )
        return "held by " + ", ".join(printable(host) for host in hosts)
    if Verdict.HELD_BY_UNKNOWN in verdicts:
        return "held by somebody unknown"
    if verdicts == {Verdict.FREE}:
        return "free"
    return "unknown"


def who(path: str, places: Places) -> dict[str, Any]:
    """Who holds one file: this host's VMs, processes that have it open here, the lock as the server sees it."""
    answer = _ask_bounded({"path": path, "mode": EXCLUSIVE}, places)
    disk = DiskReport(path, DISK, EXCLUSIVE, Verdict.UNKNOWN, "")
    _judge(disk, answer)
    vms, problem = guarded_vms(places)
    here = [vm for vm in vms if any(file["inode"] == answer["inode"] for file in vm["files"])]
    users = [
        {"pid": user.pid, "name": proc.name(user.pid), "writable": user.info.writable}
        for pid in proc.pids()
        for user in proc.open_files(pid, {answer["inode"]})
    ]
    if here:
        disk.verdict = Verdict.GUARDED_HERE
        disk.text = "guarded here by " + ", ".join(f"VM '{printable(vm['name'])}' ({vm['state']})" for vm in here)
        disk.todo = ""
    return {"schema": 1, **disk.as_json(), "vms": here, "processes": users, "daemon": problem or "up"}
