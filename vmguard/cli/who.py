"""``vmguard who FILE``: who holds a disk image, here or on another host."""

from __future__ import annotations

import argparse
import os

from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.query import reports
from vmguard.query.wording import guard_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a disk image")
    parser.add_argument("--ask-storage", action="store_true", help="ask the storage server for the holder's name, too")


def run(args: argparse.Namespace, out: Output) -> int:
    answers = host.ask(where := places.of(args))
    report = reports.who(os.path.abspath(args.file), where, answers.known, answers.fenced)
    disk = report.disk
    storage = _ask_storage(args, report) if args.ask_storage else None
    if args.json:
        out.json({**report.as_json(), "storage": storage})
        return report.health.severity
    host.begin(report.health, out)
    if disk.text not in report.health.headline:
        out.line(f"{disk.path}: {disk.text}")
    for vm in report.vms:
        for file in vm.files:
            if file.path == disk.path or file.path.endswith(os.path.basename(disk.path)):
                out.line(f"  VM '{vm.name}': {guard_words(file, exact=args.verbose > 0)}")
    for process in report.processes:
        how = "for writing" if process.writable else "for reading"
        out.line(f"  open {how} here: {process.name} (pid {process.pid})")
    if storage is not None:
        out.line(f"  {storage['text']}")
        if storage["contradiction"]:
            out.warn(str(storage["contradiction"]))
    if disk.todo and disk.todo != report.health.do_now:
        out.line(f"  {disk.todo}")
    host.end(report.health, out, any(vm.frozen for vm in report.vms))
    return report.health.severity


def _ask_storage(args: argparse.Namespace, report: reports.FileReport) -> dict[str, object]:
    from vmguard.cli.storage import holder

    return holder.of(args, os.path.abspath(args.file), report.inode, report.disk.owner, report.conflict)
