"""``vmguard check VM``: is this VM guarded, by whom, since when, and what to do. On any host, daemon up or not."""

from __future__ import annotations

import argparse

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import VmReport
from vmguard.daemon.report import acknowledged
from vmguard.query import reports
from vmguard.query.answers import LockAnswer, WatchAnswer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", help="a VM's id, name or uuid; it may run elsewhere")


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    report = reports.check(args.vm, where)
    report.fenced = [killed for killed in acknowledged.fenced_lately(where.run_dir) if killed.uuid == report.uuid]
    if args.json:
        out.json(report.as_json())
    else:
        _print(report, out)
        for killed in report.fenced:
            out.warn(f"{killed.sentence}, on this host: vmguard history {killed.name}")
    return report.status


def _print(report: VmReport, out: Output) -> None:
    out.status(report.status.name, f"VM '{report.name}' ({report.uuid}): {report.summary}")
    locks = {}
    if report.watch is not None:
        watch = WatchAnswer.from_json(report.watch)
        out.line(f"  {_lease(watch.lease_age, watch.freeze_in, report.disarmed)}")
        if watch.need != "none" or watch.fence:
            out.line(f"  {watch.stance}: {watch.fence or watch.why}")
        locks = {lock.path: lock for lock in watch.locks}
    for disk in report.disks:
        out.line(f"  {disk.role or 'disks'} {disk.path}".rstrip())
        out.line(f"      {disk.text}")
        if disk.path in locks:
            out.line(f"      {_verdict(locks[disk.path])}")
        if disk.todo:
            out.line(f"      do now: {disk.todo}")
    for item in report.unguarded:
        out.warn(f"{item['source']} is not guarded: {item['reason']}")
    if report.daemon != "up":
        out.warn(f"{report.daemon}; this answer is from its state files and the share")


def _lease(age: float | None, left: float | None, disarmed: str) -> str:
    if age is None:
        return "lease not confirmed yet"
    if disarmed:
        return f"lease confirmed {age:.1f} s ago; the VM is not frozen when that is too long ago: {disarmed}"
    if not left:
        return f"lease confirmed {age:.1f} s ago: too long for the VM to run"
    return f"lease confirmed {age:.1f} s ago; {left:.1f} s until the VM is frozen if the server is silent from now on"


def _verdict(lock: LockAnswer) -> str:
    age = f", {lock.kept_age:.1f} s ago" if lock.kept_age is not None else ""
    return f"verdict {lock.verdict.upper()}{age}: {lock.evidence or 'not asked yet'}"
