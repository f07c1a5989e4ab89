"""``vmguard who FILE``: who holds a disk image, here or on another host."""

from __future__ import annotations

import argparse
import os

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import DiskStatus, Status, guard_words
from vmguard.query import lookup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a disk image")


def run(args: argparse.Namespace, out: Output) -> int:
    answer = lookup.who(os.path.abspath(args.file), places.of(args))
    status = Status.UNKNOWN if answer["verdict"] == DiskStatus.UNKNOWN else Status.OK
    if args.json:
        out.json({"status": status.name, **answer})
        return status
    out.status(status.name, f"{answer['path']}: {answer['text']}")
    if answer["todo"]:
        out.line(f"  do now: {answer['todo']}")
    for vm in answer["vms"]:
        for file in vm["files"]:
            if file["path"] == answer["path"] or file["path"].endswith(os.path.basename(answer["path"])):
                out.line(f"  VM '{vm['name']}': {guard_words(file)}")
    for process in answer["processes"]:
        how = "for writing" if process["writable"] else "for reading"
        out.line(f"  open {how} here: {process['name']} (pid {process['pid']})")
    return status
