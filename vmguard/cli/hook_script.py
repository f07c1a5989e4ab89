"""``vmguard hook-script libvirt|proxmox``: prints the hook with this installation's paths filled in."""

from __future__ import annotations

import argparse
import os
import sys

import vmguard
from vmguard.cli.output import Output
from vmguard.core import LIBVIRT, PROXMOX
from vmguard.core.reports.status import Status
from vmguard.errors import VmguardError

_NAMES = {LIBVIRT: "qemu", PROXMOX: "vmguard-hookscript"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hypervisor", choices=sorted(_NAMES), help="whose hook to print")


def run(args: argparse.Namespace, out: Output) -> int:
    script = text(args.hypervisor)
    if args.json:
        out.json({"schema": 1, "hypervisor": args.hypervisor, "script": script})
    else:
        out.block(script)
    return Status.OK


def text(hypervisor: str) -> str:
    """Return the hook as it must be installed. Raises VmguardError when this installation lacks its template."""
    package = os.path.dirname(os.path.abspath(vmguard.__file__))
    places = (
        os.path.join(os.path.dirname(package), "hooks"),  # a clone
        os.path.join(sys.prefix, "share/vmguard/hooks"),
        "/usr/share/vmguard/hooks",
    )
    for folder in places:
        try:
            with open(os.path.join(folder, _NAMES[hypervisor]), encoding="utf-8") as stream:
                template = stream.read()
        except FileNotFoundError:
            continue
        filled = template.replace("VMGUARD_PYTHON=/usr/bin/python3", f"VMGUARD_PYTHON={sys.executable}")
        return filled.replace("VMGUARD_LIB=/usr/lib/python3/dist-packages", f"VMGUARD_LIB={os.path.dirname(package)}")
    raise VmguardError(f"the hook's template is in none of {', '.join(places)}", "reinstall vmguard")
