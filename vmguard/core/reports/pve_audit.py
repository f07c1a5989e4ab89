"""Find what is wrong with the guard of a whole Proxmox cluster: ``audit(view)``. Pure: all input is in the view.

kind            meaning
not-enrolled    a VM has disks on a guarded storage, but its starts do not run vmguard's hook
shared-file     two VMs open one file, and one of them writes to it
aliased         two storages are the same place: one image has two names there
foreign         a host that is no node of this cluster has claimed disks there
unsafe-mount    locks on a mount prove nothing (NFSv3, nolock), or I/O is given up early (soft)
no-hook         VMs are enrolled, but this node lacks the hookscript: they cannot start
chain           a VM's own hookscript is not run any more, or an entry is left of a script that is gone
snapshot        a rollback would take the guard off, or bring it back after it was taken off
hidden-drive    ``args:`` hands QEMU a drive that nobody can guard
unknown         something could not be read or queried
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.reports.status import Status
from vmguard.core.sources.pve_config import VmConfig
from vmguard.core.sources.pve_plan import PveVm, plan_vm
from vmguard.core.sources.pve_storage import Storage, Storages
from vmguard.errors import VmguardError

#: the hookscript as a VM's configuration names it
HOOK = "local:snippets/vmguard"


@dataclass(frozen=True)
class MountUnder:
    """The mount under a path, as this node's kernel shows it."""

    point: str
    is_nfs: bool
    #: ``server:/export``
    source: str
    #: why a lock there proves nothing; empty when it does
    unsafe: str = ""
    soft: bool = False


@dataclass(frozen=True)
class LastClaim:
    """The last claim in an owner record of a storage."""

    storage: str
    path: str
    host: str
    vm: str
    claimed: str
    released: str


@dataclass(frozen=True)
class AuditFinding:
    """One thing that is wrong: its kind (see above), how bad it is, a sentence, and what to do."""

    kind: str
    status: Status
    text: str
    todo: str = ""
    vmid: str = ""
    node: str = ""
    storage: str = ""

    def as_json(self) -> dict[str, str]:
        where = {"vmid": self.vmid, "node": self.node, "storage": self.storage}
        return {"kind": self.kind, "status": self.status.name, **where, "text": self.text, "todo": self.todo}


@dataclass
class ClusterView:
    """The cluster, as far as it is visible from where the audit runs."""

    nodes: list[str]
    storages: Storages
    #: (VMID, node, configuration)
    vms: list[tuple[str, str, VmConfig]] = field(default_factory=list)
    #: hookscripts that vmguard replaced: VMID -> (volume, path)
    chained: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: return the mount under a path; None when it is not known from here
    mount_under: Callable[[str], MountUnder | None] = lambda path: None
    #: path -> (device, inode) of files and of storages' folders, as far as they could be read
    inodes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    records: Sequence[LastClaim] = ()
    #: the name of this node; empty when the audit runs elsewhere
    here: str = ""
    #: why the hookscript cannot be run on this node; empty when it can, or when that is not known
    hook_problem: str = ""
    #: return why a recorded script (by its path) cannot be run here; empty when it can
    script_problem: Callable[[str], str] = lambda path: ""
    problems: list[AuditFinding] = field(default_factory=list)


def audit(view: ClusterView) -> list[AuditFinding]:
    """Return all findings, the worst first."""
    plans, found = _plans(view)
    found += view.problems
    for part in (_enrolment, _shared_files):
        found += part(view, plans)
    for whole in (_aliased, _mounts, _foreign, _chains):
        found += whole(view)
    order = [Status.CRITICAL, Status.UNKNOWN, Status.WARNING, Status.OK]
    return sorted(found, key=lambda one: order.index(one.status))


def is_guarded(storage: Storage, mount_under: Callable[[str], MountUnder | None]) -> bool:
    """Return whether several hosts may open the storage's files. What is mounted decides, not the type alone."""
    if not storage.has_files or not storage.path:
        return False
    under = mount_under(storage.path)
    return (
        storage.type == "nfs" or (storage.type == "dir" and storage.is_shared) or (under is not None and under.is_nfs)
    )


def guarded_files(vm: PveVm, mount_under: Callable[[str], MountUnder | None]) -> list[tuple[str, str]]:
    """Return (path, mode) of each file of the VM that other hosts may open."""
    found = []
    for source in vm.domain.sources:
        if source.kind != "file":
            continue
        storage, under = vm.storages.get(source.path), mount_under(source.path)
        if (storage is not None and is_guarded(storage, mount_under)) or (under is not None and under.is_nfs):
            found.append((source.path, source.mode))
    return found


_Plans = list[tuple[str, str, VmConfig, PveVm]]


def _plans(view: ClusterView) -> tuple[_Plans, list[AuditFinding]]:
    plans, found = [], []
    for vmid, node, config in view.vms:
        try:
            plans.append((vmid, node, config, plan_vm(config, view.storages, node)))
        except VmguardError as problem:
            text = f"VM {vmid} cannot start as it is configured: {problem.message}"
            found.append(AuditFinding("unknown", Status.UNKNOWN, text, problem.hint, vmid, node))
    return plans, found


def _enrolment(view: ClusterView, plans: _Plans) -> Iterator[AuditFinding]:
    for vmid, node, config, vm in plans:
        enrolled = config.options.get("hookscript", "") == HOOK
        writes = [path for path, mode in guarded_files(vm, view.mount_under) if mode == EXCLUSIVE]
        if writes and not enrolled:
            text = f"VM {vmid} ('{config.name}') on {node} writes to {writes[0]}, and its starts are not guarded"
            yield AuditFinding(
                "not-enrolled", Status.WARNING, text, f"on {node}: vmguard enable proxmox --vmid {vmid}", vmid, node
            )
        if enrolled and node == view.here and view.hook_problem:
            text = f"VM {vmid} is enrolled, but cannot start on {node}: {view.hook_problem}"
            yield AuditFinding("no-hook", Status.CRITICAL, text, "vmguard enable proxmox --hook-only", vmid, node)
        for name, script in config.snapshot_hooks.items():
            if writes and enrolled and script != HOOK:
                text = f"a rollback of VM {vmid} to its snapshot '{name}' takes the guard off: that is older"
                yield AuditFinding("snapshot", Status.WARNING, text, "after a rollback: vmguard audit", vmid, node)
            elif not enrolled and script == HOOK:
                text = f"a rollback of VM {vmid} to its snapshot '{name}' brings vmguard's hookscript back"
                yield AuditFinding("snapshot", Status.WARNING, text, "keep the hook where the VM may start", vmid, node)
        if any(item.source == "args" for item in vm.domain.unguarded):
            text = f"VM {vmid} on {node}: its args: hand QEMU a drive that nobody can guard"
            yield AuditFinding("hidden-drive", Status.WARNING, text, "make it a disk of the VM", vmid, node)


def _shared_files(view: ClusterView, plans: _Plans) -> Iterator[AuditFinding]:
    users: dict[object, list[tuple[str, str, str, str]]] = {}
    for vmid, node, _, vm in plans:
        for path, mode in dict(_files(vm)).items():
            for name in _names(path, node, vm.storages.get(path), view):
                users.setdefault(name, []).append((vmid, node, path, mode))
    told = set()
    for several in users.values():
        vmids = sorted({vmid for vmid, *_ in several})
        if len(vmids) < 2 or EXCLUSIVE not in {mode for *_, mode in several} or tuple(vmids) in told:
            continue
        told.add(tuple(vmids))
        names = " and ".join(f"VM {vmid} on {node} (as {path})" for vmid, node, path, _ in sorted(several))
        text = f"one file, several VMs: {names}; only one of them can start at a time"
        yield AuditFinding(
            "shared-file", Status.CRITICAL, text, "take the disk from all but one of them", vmids[0], several[0][1]
        )


def _names(path: str, node: str, storage: Storage | None, view: ClusterView) -> list[object]:
    """Return the names of a file that hold in the whole cluster. A folder of one node means nothing on another."""
    name = place(path, storage, view.mount_under)
    everywhere = not name.startswith("/") or (storage is not None and storage.is_shared)
    names: list[object] = [name if everywhere else (node, name)]
    if path in view.inodes and (everywhere or node == view.here):
        names.append(view.inodes[path])
    return names


def _files(vm: PveVm) -> Iterator[tuple[str, str]]:
    """Yield (path, mode) of each file; of a file that is listed twice, the exclusive mode comes last."""
    sources = [source for source in vm.domain.sources if source.kind == "file"]
    for source in sorted(sources, key=lambda source: source.mode == EXCLUSIVE):
        yield source.path, source.mode


def place(path: str, storage: Storage | None, mount_under: Callable[[str], MountUnder | None]) -> str:
    """Return one name for one place of the cluster, whatever its path: ``server:/export/...``, else the path."""
    under = mount_under(path)
    if under is not None and under.is_nfs:
        return _joined(under.source, path[len(under.point) :])
    if storage is not None and storage.type == "nfs":
        server, export = storage.options.get("server", ""), storage.options.get("export", "")
        return _joined(f"{server}:{export}", path[len(storage.path) :])
    return path


def _joined(source: str, rest: str) -> str:
    return f"{source.rstrip('/')}/{rest.strip('/')}".rstrip("/")


def _aliased(view: ClusterView) -> Iterator[AuditFinding]:
    stores = [storage for storage in view.storages.by_id.values() if storage.has_files and storage.path]
    for number, one in enumerate(stores):
        for other in stores[number + 1 :]:
            if (
                one.nodes
                and other.nodes
                and not set(one.nodes) & set(other.nodes)
                and "nfs" not in (one.type, other.type)
            ):
                continue  # folders of different nodes
            mine, theirs = (place(storage.path, storage, view.mount_under) for storage in (one, other))
            inodes = [view.inodes.get(storage.path) for storage in (one, other)]
            if mine == theirs or (inodes[0] is not None and inodes[0] == inodes[1]):
                how = "are the same place"
            elif f"{mine}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{mine}/"):
                how = "lie one inside the other"
            else:
                continue
            text = f"the storages '{one.id}' and '{other.id}' {how} ({mine}): one image has two names there"
            yield AuditFinding("aliased", Status.WARNING, text, "keep one of the two", storage=other.id)


def _mounts(view: ClusterView) -> Iterator[AuditFinding]:
    for storage in view.storages.by_id.values():
        if not storage.has_files or not storage.path or storage.is_disabled:
            continue
        under = view.mount_under(storage.path)
        here = f" on {view.here}" if view.here else ""
        if under is not None and under.is_nfs:
            if under.unsafe:
                text = f"storage '{storage.id}'{here}: {under.unsafe}"
                todo = f"pvesm set {storage.id} --options vers=4.2; then mount it anew"
                yield AuditFinding("unsafe-mount", Status.CRITICAL, text, todo, node=view.here, storage=storage.id)
            elif under.soft:
                yield _soft(storage, f"{here}: {under.point} is mounted soft")
            continue
        if storage.type != "nfs":
            continue
        options = storage.options.get("options", "").split(",")
        versions = [word.split("=")[1] for word in options if word.startswith(("vers=", "nfsvers=")) and "=" in word]
        if "nolock" in options or any(version.startswith(("2", "3")) for version in versions):
            text = f"storage '{storage.id}': its options ({','.join(options)}) make locks worthless"
            yield AuditFinding(
                "unsafe-mount", Status.CRITICAL, text, f"pvesm set {storage.id} --options vers=4.2", storage=storage.id
            )
        elif "soft" in options or "softerr" in options:
            yield _soft(storage, ": its options say soft")


def _soft(storage: Storage, how: str) -> AuditFinding:
    text = f"storage '{storage.id}'{how}: in an outage the guest gets I/O errors instead of waiting"
    return AuditFinding(
        "unsafe-mount", Status.WARNING, text, f"pvesm set {storage.id} --options hard,vers=4.2", storage=storage.id
    )


def _foreign(view: ClusterView) -> Iterator[AuditFinding]:
    seen: dict[tuple[str, str], list[LastClaim]] = {}
    for record in view.records:
        if record.host.partition(".")[0] not in view.nodes and record.host not in view.nodes:
            seen.setdefault((record.storage, record.host), []).append(record)
    for (storage, host), records in seen.items():
        last = max(records, key=lambda record: record.claimed)
        held = [record for record in records if not record.released]
        state = f"{len(held)} of them not released" if held else "all released"
        text = (
            f"storage '{storage}' is used by {host}, which is no node of this cluster: {len(records)} disks, {state}; "
            f"last VM '{last.vm}' at {last.claimed}"
        )
        todo = "VMIDs and names of two clusters collide, and one destroys the other's images: give each its own export"
        yield AuditFinding("foreign", Status.WARNING, text, todo, storage=storage)


def _chains(view: ClusterView) -> Iterator[AuditFinding]:
    scripts = {vmid: config.options.get("hookscript", "") for vmid, _, config in view.vms}
    nodes = {vmid: node for vmid, node, _ in view.vms}
    for vmid, (volume, path) in view.chained.items():
        if vmid not in scripts:
            text = f"vmguard.cfg remembers {volume} for VM {vmid}, which is gone: a new VM of that number would get it"
            yield AuditFinding(
                "chain", Status.WARNING, text, "vmguard disable proxmox --all --dry-run shows what it would drop", vmid
            )
        elif scripts[vmid] != HOOK:
            text = f"vmguard.cfg remembers {volume} for VM {vmid}, which is not enrolled"
            yield AuditFinding(
                "chain", Status.WARNING, text, f"vmguard disable proxmox --vmid {vmid}", vmid, nodes[vmid]
            )
        elif nodes[vmid] == view.here and (why := view.script_problem(path)):
            text = f"VM {vmid} cannot start on {view.here}: its own hookscript {path} {why}"
            yield AuditFinding("chain", Status.CRITICAL, text, "put it back", vmid, nodes[vmid])
    for vmid, script in scripts.items():
        origin = _cloned_from(view, vmid) if script == HOOK and vmid not in view.chained else ""
        if origin in view.chained:
            script = view.chained[origin][0]
            text = f"VM {vmid} is a clone of {origin}, whose own hookscript {script} it does not run"
            todo = f"if it shall: qm set {vmid} --hookscript {script}; vmguard enable proxmox --vmid {vmid}"
            yield AuditFinding("chain", Status.WARNING, text, todo, vmid, nodes[vmid])


def _cloned_from(view: ClusterView, vmid: str) -> str:
    """Return the VMID of the template under a linked clone; empty for any other VM."""
    config = next(config for known, _, config in view.vms if known == vmid)
    for drive in config.drives.values():
        parts = drive.file.partition(":")[2].split("/")
        if len(parts) == 4 and parts[1].startswith("base-"):
            return parts[0]
    return ""
