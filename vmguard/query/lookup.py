"""Finds a VM by its name, uuid or VMID, and its files: guarded here, defined here, in the cluster, or on a share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vmguard.adapters.linux import roots_file
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.core import LIBVIRT, PROXMOX
from vmguard.core.locks.plan import DISK, EXCLUSIVE, Plan, PlannedFile
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.errors import BadInput, VmguardError
from vmguard.query import ask_share, start_plan
from vmguard.query.answers import VmAnswer
from vmguard.query.ask_share import FoundRecord
from vmguard.query.places import Places
from vmguard.query.start_plan import StartPlan

#: of a domain's XML; the kernel reads no more at once than 2 GiB
_MOST_XML_BYTES = 1 << 26


@dataclass(frozen=True)
class Found:
    """A VM: what this host guards of it, or else its files as its configuration or the owner records name them."""

    name: str
    uuid: str
    hypervisor: str
    guarded: VmAnswer | None = None
    plan: StartPlan = field(default_factory=lambda: StartPlan([], []))
    #: why the files could not be learned; empty when they could
    problem: str = ""


def find(wanted: str, vms: Sequence[VmAnswer], places: Places) -> Found:
    """Find a VM by id, name or uuid. ``vms``: those that this host guards.

    Raises BadInput when nobody knows it, StorageTimeout when the search of the shares takes too long.
    """
    for vm in vms:
        if wanted in (vm.name, vm.uuid):
            return Found(vm.name, vm.uuid, vm.hypervisor, guarded=vm)
    found = _of_libvirt(wanted, places) or _of_proxmox(wanted, places)
    if found is not None:
        return found
    records = ask_share.records_of(wanted, places)
    if not records:
        raise BadInput(
            f"no VM {wanted!r} is known on this host, and no owner record on its NFS mounts names it",
            "give its name or uuid as libvirt has it, or its VMID; vmguard status lists what this host guards",
        )
    owner = records[0].owner
    return Found(owner.vm, owner.uuid, owner.hypervisor, plan=StartPlan([_as_disk(record) for record in records], []))


def _of_libvirt(wanted: str, places: Places) -> Found | None:
    for xml in _domain_files(wanted, places):
        try:
            domain = parse_domain(xml)
        except VmguardError:
            continue
        if wanted in (domain.name, domain.uuid):
            make = functools.partial(start_plan.of_xml, xml, places.timeout, places.trusted_folders)
            return _planned(domain.name, domain.uuid, LIBVIRT, make)
    return None


def _domain_files(wanted: str, places: Places) -> Iterator[bytes]:
    """Yield the domain XML files of this host's libvirt, the likely one first."""
    for folder in (places.libvirt_run_dir, places.libvirt_config_dir):
        try:
            names = [name for name in os.listdir(folder) if name.endswith(".xml")]
        except OSError:
            continue
        for name in sorted(names, key=lambda name: name != f"{wanted}.xml"):
            try:
                yield roots_file.read(os.path.join(folder, name), _MOST_XML_BYTES)[0]
            except OSError:
                continue


def _of_proxmox(wanted: str, places: Places) -> Found | None:
    """Find a VM of this Proxmox cluster, whichever node owns it, by VMID or name."""
    folder = places.proxmox_config_dir
    proxmox_host.require_answer(folder, places.timeout)
    for vmid, node in proxmox_host.owners(folder):
        try:
            config = proxmox_host.read_config(folder, vmid, node)
        except VmguardError:
            continue
        if wanted in (vmid, config.name):
            plan = functools.partial(_plan_proxmox, folder, vmid, node, places.trusted_folders)
            return _planned(config.name, vmid, PROXMOX, functools.partial(start_plan.in_child, plan, places.timeout))
    return None


def _plan_proxmox(folder: str, vmid: str, node: str, trusted: tuple[str, ...]) -> Plan:
    return start_plan.plan_domain(proxmox_host.read_vm(folder, vmid, node).domain, trusted)


def _planned(name: str, uuid: str, hypervisor: str, make: Callable[[], StartPlan]) -> Found:
    try:
        return Found(name, uuid, hypervisor, plan=make())
    except VmguardError as problem:
        return Found(name, uuid, hypervisor, problem=problem.message)


def unknown_to_cluster(vmid: str) -> BadInput:
    """Return the error for a VMID that this Proxmox cluster does not have."""
    return BadInput(f"this cluster has no VM {vmid!r}", "qm list shows those of this node")


def _as_disk(record: FoundRecord) -> PlannedFile:
    path = os.path.join(record.folder, os.path.basename(record.owner.path))
    return PlannedFile(path, EXCLUSIVE, DISK, "owner record")
