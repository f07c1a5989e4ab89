"""``vmguard verify-journal [FILE]``: is this history one that the watchdog can have written?"""

from __future__ import annotations

import argparse
import os

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status
from vmguard.core.watchdog import trace
from vmguard.daemon.report.history import FILE, is_whole, read_file
from vmguard.errors import BadInput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="", help="a history.jsonl, also of another host (this host's own)"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    path = args.file or os.path.join(places.of(args).run_dir, FILE)
    entries = read_file(path, must_exist=bool(args.file))
    if args.file and not entries and os.path.getsize(path):
        raise BadInput(f"'{path}' has no line of a history", "name a history.jsonl, as `vmguard report` packs one")
    faults = trace.faults(entries, is_whole(path))
    status = Status.CRITICAL if faults else Status.OK
    if args.json:
        found = [{"line": fault.line, "code": fault.code, "text": fault.text} for fault in faults]
        out.json({"schema": 1, "status": status.name, "lines": len(entries), "faults": found})
        return status
    for fault in faults:
        out.line(f"line {fault.line}: {fault.code}: {fault.text}")
    if faults:
        out.status(status.name, f"{len(faults)} of {len(entries)} lines cannot follow those above them: {_HELP}")
    else:
        out.status(status.name, f"{len(entries)} lines, each of which may follow those above it")
    return status


_HELP = "lines are lacking (a full /run), the file was changed, or vmguard has a fault: please report it with this file"
