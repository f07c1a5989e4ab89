"""Gather what an audit sees from a node: the files of /etc/pve, this kernel's mounts, the shares themselves.

Every question to a share is asked in a child with a deadline; one without an answer is a finding of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from vmguard.adapters.linux import bounded_child, mounts
from vmguard.adapters.proxmox import chained_hookscripts
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.adapters.storage import owner_record
from vmguard.core.reports.pve_audit import AuditFinding, ClusterView, LastClaim, MountUnder, is_guarded
from vmguard.core.reports.status import Status
from vmguard.core.sources.pve_plan import plan_vm
from vmguard.errors import VmguardError

#: of one storage
_MAX_RECORDS = 5000


def view(config_dir: str, record_folder: str, hook: str, seconds: float) -> ClusterView:
    """Gather everything. Raises VmguardError if /etc/pve cannot be read."""
    proxmox_host.require_answer(config_dir, seconds)
    node = proxmox_host.node_name()
    nodes = proxmox_host.nodes(config_dir)
    if not nodes:
        raise VmguardError(f"{config_dir} knows no node: this is no Proxmox VE, or its cluster is down", "pvecm status")
    found = ClusterView(nodes, proxmox_host.read_storages(config_dir), here=node, mount_under=mount_finder())
    found.chained = {
        vmid: (script.volume, script.path) for vmid, script in chained_hookscripts.read(config_dir).items()
    }
    found.hook_problem = unusable(hook)
    found.script_problem = unusable
    for vmid, owner in proxmox_host.owners(config_dir):
        try:
            found.vms.append((vmid, owner, proxmox_host.read_config(config_dir, vmid, owner)))
        except VmguardError as problem:
            found.problems.append(AuditFinding("unknown", Status.UNKNOWN, problem.message, problem.hint, vmid, owner))
    _ask_shares(found, record_folder, seconds)
    return found


def unusable(script: str) -> str:
    """Return why Proxmox would not run a hookscript (GuestHelpers.pm, check_hookscript); empty if it would."""
    if not os.path.isfile(script):
        return "does not exist"
    return "" if os.access(script, os.X_OK) else "is not executable"


def mount_finder() -> Callable[[str], MountUnder | None]:
    """Return a function that finds the mount under a path, by this kernel's table as it is now. No share is asked."""
    table = sorted(mounts.mounts(), key=lambda mount: len(mount.point))
    names: dict[str, str] = {}

    def source_of(mount: mounts.Mount) -> str:
        """Return what is mounted, under one name for a server that has several: the first one with that address."""
        server, found, path = mount.source.partition(":/")
        address = mount.option("addr")
        return (names.setdefault(address, server) if address else server) + found + path

    sources = {mount.id: source_of(mount) if mount.is_nfs else mount.source for mount in table}

    def mount_under(path: str) -> MountUnder | None:
        for mount in reversed(table):
            if f"{path}/".startswith(mount.point.rstrip("/") + "/"):
                soft = "soft" in mount.options or "softerr" in mount.options
                return MountUnder(mount.point, mount.is_nfs, sources[mount.id], mounts.why_unsafe(mount), soft)
        return None

    return mount_under


def _ask_shares(found: ClusterView, record_folder: str, seconds: float) -> None:
    stores = [store for store in found.storages.by_id.values() if store.path and store.has_files]
    paths = [store.path for store in stores]
    for _, node, config in found.vms:
        try:
            vm = plan_vm(config, found.storages, node)
        except VmguardError:
            continue  # the audit says so
        paths += [source.path for source in vm.domain.sources if source.kind == "file"]
    try:
        inodes = bounded_child.run(lambda: _inodes(paths), seconds, "looking at the VMs' disks")
        found.inodes = {path: (int(device), int(inode)) for path, (device, inode) in inodes.items()}
    except VmguardError as problem:
        found.problems.append(AuditFinding("unknown", Status.UNKNOWN, problem.message, problem.hint, node=found.here))
        return  # the share hangs: do not hang in it once more for each storage
    records: list[LastClaim] = []
    for store in stores:
        if not record_folder or not is_guarded(store, found.mount_under):
            continue
        folder = store.folder("images")
        try:
            rows = bounded_child.run(lambda: list(_records(folder, record_folder)), seconds, f"reading {folder}")  # noqa: B023
            records += [LastClaim(store.id, *map(str, row)) for row in rows]
        except VmguardError as problem:
            text = f"owner records of storage '{store.id}': {problem.message}"
            found.problems.append(AuditFinding("unknown", Status.UNKNOWN, text, problem.hint, storage=store.id))
    found.records = records


def _inodes(paths: list[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found[path] = (status.st_dev, status.st_ino)
    return found


def _records(folder: str, record_folder: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield path, host, VM and times of the last claim of each disk."""
    read = 0
    for vmid in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        place = os.path.join(folder, vmid, record_folder)
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            owner = owner_record.last_claim(os.path.join(place, name)) if name.endswith(".owner") else None
            if owner is not None:
                yield owner.path, owner.host, owner.vm, owner.claimed, owner.released
            read += 1
            if read >= _MAX_RECORDS:
                return
