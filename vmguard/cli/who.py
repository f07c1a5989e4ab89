"""``vmguard who FILE``: who holds a disk image, here or on another host."""

from __future__ import annotations

import argparse
import os

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import DiskStatus, Status, worst
from vmguard.query import reports
from vmguard.query.judge import status_of
from vmguard.query.wording import guard_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a disk image")


def run(args: argparse.Namespace, out: Output) -> int:
    report = reports.who(os.path.abspath(args.file), places.of(args))
    disk = report.disk
    unknown = [Status.UNKNOWN] if disk.verdict is DiskStatus.UNKNOWN else [Status.OK]
    status = worst([*unknown, *map(status_of, report.vms)])
    if args.json:
        out.json({"status": status.name, **report.as_json()})
        return status
    out.status(status.name, f"{disk.path}: {disk.text}")
    if disk.todo:
        out.line(f"  do now: {disk.todo}")
    for vm in report.vms:
        for file in vm.files:
            if file.path == disk.path or file.path.endswith(os.path.basename(disk.path)):
                out.line(f"  VM '{vm.name}': {guard_words(file)}")
    for process in report.processes:
        how = "for writing" if process.writable else "for reading"
        out.line(f"  open {how} here: {process.name} (pid {process.pid})")
    return status
