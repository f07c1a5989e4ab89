"""``vmguard disable HYPERVISOR``: undoes what enable did, and nothing else. Running VMs stay guarded."""

from __future__ import annotations

import argparse

from vmguard.cli import enable, enroll
from vmguard.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hypervisor", choices=sorted(enable.HYPERVISORS), help="whose starts are no longer guarded")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    enroll.add_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    return int(enable.module(args).disable(args, out))
