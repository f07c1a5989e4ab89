"""``vmguard check VM``: is this VM guarded, by whom, since when, and what to do. On any host, daemon up or not."""

from __future__ import annotations

import argparse

from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status
from vmguard.core.reports.vm_report import VmReport
from vmguard.query import reports
from vmguard.query.answers import LockAnswer, WatchAnswer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", help="a VM's id, name or uuid; it may run elsewhere")


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    answers = host.ask(where)
    report = reports.check(args.vm, where, answers.known, answers.fenced)
    found = report.health
    if args.json:
        out.json(report.as_json())
    else:
        host.begin(found, out)
        _print(report, out, args.verbose > 0)
        host.end(found, out, report.state == "frozen")
    return found.severity


def _print(report: VmReport, out: Output, exact: bool) -> None:
    is_said = report.health.severity is Status.OK
    out.line(f"  {report.hypervisor} {report.uuid}" + ("" if is_said else f": {report.summary}"))
    locks = {}
    if report.watch is not None:
        watch = WatchAnswer.from_json(report.watch)
        out.line(f"  {_lease(watch.lease_age, watch.freeze_in, report.disarmed)}")
        if watch.need != "none" or watch.fence:
            out.line(f"  {watch.stance}: {watch.fence or watch.why}")
        # while the lease may have ended, what the server said before it fell silent proves nothing
        locks = {lock.path: lock for lock in watch.locks if watch.need == "none" or lock.verdict != "kept"}
    todo = report.health.do_now
    for disk in report.disks:
        out.line(f"  {disk.role or 'disks'} {disk.path}".rstrip())
        lock = locks.get(disk.path)
        out.line(f"      {disk.text}{_proof(lock) if lock is not None else ''}")
        if exact and disk.exact:
            out.line(f"      {disk.exact}")
        if exact and lock is not None:
            out.line(f"      verdict {lock.verdict.upper()}: {lock.evidence or 'not asked yet'}")
        if disk.todo and disk.todo != todo:
            out.line(f"      {disk.todo}")
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


def _proof(lock: LockAnswer) -> str:
    """Say what the server last said about a lock."""
    if lock.verdict == "kept" and lock.kept_age is not None:
        return f", confirmed by the server {lock.kept_age:.1f} s ago"
    if lock.verdict == "lost":
        return f", but LOST: {lock.evidence}"
    return f", not confirmed: {lock.evidence or 'the server has not answered yet'}"
