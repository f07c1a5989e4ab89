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


def run(args: argparse.Namespace, out: Output) -> int:
    answers = host.ask(where := places.of(args))
    report = reports.who(os.path.abspath(args.file), where, answers.known, answers.fenced)
    disk = report.disk
    if args.json:
        out.json(report.as_json())
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
    if disk.todo and disk.todo != report.health.do_now:
        out.line(f"  {disk.todo}")
    host.end(report.health, out, any(vm.frozen for vm in report.vms))
    return report.health.severity
