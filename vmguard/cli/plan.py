"""``vmguard plan``: which files a start would lock, in which mode, and what stays unguarded and why."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.config import load
from vmguard.core.reports.status import Status
from vmguard.core.sources.domain_xml import Domain, parse_domain
from vmguard.core.sources.pve_config import is_vmid, parse_config
from vmguard.core.sources.pve_plan import PveVm, plan_vm
from vmguard.core.sources.pve_storage import parse_storages
from vmguard.errors import BadInput, VmguardError
from vmguard.query import start_plan
from vmguard.query.lookup import unknown_to_cluster

#: for a configuration whose file is not named after a VM: the last number, which hardly any VM has
_NO_VMID = "999999999"

#: more than any parser here takes: /dev/zero has no end
_MOST_BYTES = 16 << 20

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "vmguard plan SOURCE [--storage-cfg FILE] [--node NODE]"
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--domain-xml", metavar="FILE", help="a domain XML file; - reads standard input")
    source.add_argument("--name", help="a VM of this host's libvirt, by name")
    source.add_argument("--uuid", help="a VM of this host's libvirt, by uuid")
    source.add_argument("--vmid", help="a VM of this Proxmox cluster, by its number")
    source.add_argument("--pve-config", metavar="FILE", help="a VM's configuration of Proxmox, by any name; - as above")
    parser.add_argument("--storage-cfg", metavar="FILE", help="with --pve-config: the storages (/etc/pve/storage.cfg)")
    parser.add_argument("--node", help="with --pve-config: the node that would start it; else all its storages count")


def run(args: argparse.Namespace, out: Output) -> int:
    timeout, trusted = places.timeout_of(args), load(args.config).storage.trusted_folders
    if args.vmid is not None or args.pve_config is not None:
        vm = _proxmox(args)
        plan = start_plan.of_domain(vm.domain, timeout, trusted)
        for note in vm.notes:
            out.warn(note)
    else:
        plan = start_plan.of_domain(_domain(args), timeout, trusted)
    if args.json:
        out.json(plan.as_json())
        return Status.OK
    rows = [[file.mode, file.role, file.path, file.source] for file in plan.files]
    out.table(["mode", "role", "file", "from"], rows)
    for item in plan.unguarded:
        out.warn(f"{item['source']} is not guarded: {item['reason']}")
    return Status.OK


def _proxmox(args: argparse.Namespace) -> PveVm:
    """Read a VM of Proxmox VE: one of this cluster, or a configuration file. Raises VmguardError."""
    config_dir = load(args.config).proxmox.config_dir
    if args.vmid is not None:
        proxmox_host.require_answer(config_dir, places.timeout_of(args))
        node = args.node or next((node for _, node in proxmox_host.owners(config_dir, args.vmid)), "")
        if not node:
            raise unknown_to_cluster(args.vmid)
        return proxmox_host.read_vm(config_dir, args.vmid, node)
    vmid = _vmid_in(os.path.basename(args.pve_config))
    config = _read(args.pve_config, lambda data: parse_config(data, vmid))
    default = os.path.join(config_dir, "storage.cfg")
    if args.storage_cfg is None and not os.path.exists(default):
        raise BadInput(f"there is no {default!r} on this host", "--storage-cfg FILE names a copy of the cluster's")
    storages = _read(args.storage_cfg or default, parse_storages)
    return plan_vm(config, storages, args.node or "")


def _vmid_in(name: str) -> str:
    """Return the VMID that a file is named after: ``100.conf``, ``100.conf.bak``, ``vm-100.txt``.

    A copy may have any name. Only an image that is named without its storage depends on the number.
    """
    words = "".join(letter if letter in "0123456789" else " " for letter in name).split()
    return next(filter(is_vmid, words), _NO_VMID)


def _domain(args: argparse.Namespace) -> Domain:
    """Read a domain XML: a file, standard input, or a VM of this host's libvirt. Raises BadInput."""
    if args.domain_xml is not None:
        return _read(args.domain_xml, lambda xml: parse_domain(xml, defined=False))
    wanted = args.uuid if args.name is None else args.name
    config = load(args.config)
    for folder in (config.libvirt.run_dir, config.libvirt.config_dir):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if not name.endswith(".xml") or not os.path.isfile(os.path.join(folder, name)):
                continue
            try:
                domain = _read(os.path.join(folder, name), parse_domain)
            except VmguardError:
                continue
            if wanted == (domain.uuid if args.name is None else domain.name):
                return domain
    raise BadInput(f"libvirt on this host has no VM {wanted!r}", "virsh list --all shows those it has")


def _read(path: str, parse: Callable[[bytes], T]) -> T:
    """Return what a file holds, or standard input for ``-``. Raises BadInput, which names the file."""
    try:
        if path == "-":
            return parse(sys.stdin.buffer.read(_MOST_BYTES))
        with open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES)
        return parse(data)
    except OSError as problem:
        raise BadInput(f"cannot read {path!r}: {problem.strerror}") from problem
    except BadInput as problem:
        called = "standard input" if path == "-" else repr(path)
        raise BadInput(f"{called}: {problem.message}", problem.hint) from problem
