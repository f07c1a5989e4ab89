"""``vmguard enable HYPERVISOR``: from now on each start is guarded. Idempotent; ``disable`` undoes it."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from vmguard.adapters import hypervisors
from vmguard.cli import enroll
from vmguard.cli.arguments import UsageError
from vmguard.cli.output import Output
from vmguard.core import LIBVIRT, PROXMOX

#: hypervisor -> module with ``enable(args, out)`` and ``disable(args, out)``
HYPERVISORS = {LIBVIRT: "vmguard.cli.enable_libvirt", PROXMOX: "vmguard.cli.enroll"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hypervisor", choices=sorted(HYPERVISORS), help="whose VMs to guard")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    parser.add_argument("--adopt", action="store_true", help="also guard the VMs that run already")
    enroll.add_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    return int(module(args).enable(args, out))


def module(args: argparse.Namespace) -> Any:
    """Return the hypervisor's module. Raises BadInput when an option belongs to another hypervisor."""
    if not hypervisors.by_name(args.hypervisor).hook_per_vm and enroll.chosen(args):
        raise UsageError(
            "--vmid, --storage, --all and --hook-only belong to proxmox", "libvirt has one hook for all VMs"
        )
    return importlib.import_module(HYPERVISORS[args.hypervisor])
