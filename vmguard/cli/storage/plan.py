"""``vmguard storage plan reboot --down 5m``: what a reboot of the server would do to each VM here, and when."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.adapters.linux import mountstats
from vmguard.cli import host, places
from vmguard.cli.arguments import duration
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.asked import Asked
from vmguard.cli.storage.status import health_of, times_words
from vmguard.config import load
from vmguard.core.reports.health import Finding, of_findings
from vmguard.core.reports.status import Status
from vmguard.core.servers import outlook
from vmguard.core.servers.facts import ServerFacts, Times
from vmguard.core.servers.outlook import MAYBE, NOT, Outlook
from vmguard.core.watchdog.timing import ImpossibleTiming, Timeline, Wishes, timeline
from vmguard.core.words import printable
from vmguard.query.answers import VmAnswer


@dataclass(frozen=True)
class Planned:
    """One mount: its server, its VMs here, and what a reboot would do. None: its lease is not known, or unusable."""

    point: str
    server: Asked
    vms: Sequence[str]
    lease: float
    outlook: Outlook | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["reboot"], help="what is planned")
    parser.add_argument("mount", metavar="MOUNT", nargs="?", default="", help="only the server of this mount, or name")
    parser.add_argument(
        "--down", required=True, metavar="TIME", type=duration(), help="how long it will not answer: 90s, 5m"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    config = load(args.config)
    found, me = asked.of(args, args.mount), asked.me()
    watch = config.watch
    wishes = Wishes(margin=watch.margin or None, probe=watch.probe or None, slow_round=watch.slow_round)
    vms = host.ask(places.of(args)).vms
    planned = [item for one in found for item in plan(one, vms, wishes, args.down)]
    told = [finding for one in found if one.facts is not None for finding in _risks(one.name, one.facts, me)]
    base = health_of(found, me)
    told += [Finding(base.severity, base.headline, base.do_now)] if base.severity is not Status.OK else []
    told += [
        Finding(
            Status.WARNING,
            f"{item.point}: clients may come back later than its grace period lasts",
            "vmguard storage doctor",
        )
        for item in planned
        if item.outlook is not None and item.outlook.in_time is False
    ]
    health = of_findings(told, f"{_count(planned)} would outlive a reboot of {args.down:g} s")
    if args.json:
        listed = [_as_json(item) for item in planned]
        out.json({"schema": 1, "status": health.severity.name, "health": health.as_json(), "mounts": listed})
        return health.severity
    host.begin(health, out)
    for item in planned:
        out.line()
        _print(item, out)
    host.end(health, out)
    return health.severity


def plan(one: Asked, vms: Sequence[VmAnswer], wishes: Wishes, down: float) -> list[Planned]:
    """Return what a reboot of one server would do, mount by mount. Its own lease counts, else that of the mount."""
    leases = {point: seen.lease for point, seen in mountstats.statistics().items()}
    times = one.facts.times if one.facts is not None else Times()
    found = []
    for point in one.points:
        lease = leases.get(point) or times.lease or 0.0
        try:
            line: Timeline | None = timeline(lease, wishes)
        except ImpossibleTiming:
            line = None
        there = [vm.name for vm in vms if vm.watch is not None and any(lock.mount == point for lock in vm.watch.locks)]
        found.append(Planned(point, one, there, lease, outlook.of_reboot(line, times, down) if line else None))
    return found


def _risks(name: str, facts: ServerFacts, me: asked.Me) -> list[Finding]:
    found = []
    dead = [printable(host) for host in facts.dead_on_record]
    if dead:
        text = f"{printable(name)}: dead hosts on record prolong its grace period to the full length: {', '.join(dead)}"
        found.append(Finding(Status.WARNING, text, "vmguard storage doctor"))
    if facts.memory is not None and facts.memory.is_unattended:
        text = f"{printable(name)} would forget its clients: nfsdcld does not run"
        found.append(Finding(Status.CRITICAL, text, "vmguard storage doctor"))
    return found


def _count(planned: Sequence[Planned]) -> str:
    number = len({vm for item in planned for vm in item.vms})
    return f"{number} VM{'s' * (number != 1)} here"


def _print(item: Planned, out: Output) -> None:
    facts, look = item.server.facts, item.outlook
    out.line(f"{item.point} on {item.server.name}, from its last answer on:")
    if facts is not None:
        out.line(f"  {times_words(facts)}")
    if look is None:
        out.line(f"  a lease of {item.lease:g} s suits no settings: vmguard timing")
        return
    verb = {NOT: "are not frozen: that would be", MAYBE: "may be frozen"}.get(look.frozen, "are frozen")
    out.line(f"  VMs {verb} between second {look.freeze_from:.0f} and {look.freeze_until:.0f}")
    out.line(f"  it must be back before second {look.back_by:.0f} for none to be frozen")
    out.line(f"  verdict on each lock: between second {look.verdict_from:.0f} and {look.verdict_until:.0f}")
    if look.new_locks_at is not None:
        out.line(f"  a start elsewhere, or of another VM: from second {look.new_locks_at:.0f} on at the latest")
    else:
        out.line("  when other VMs can start: not known, as the server's grace period is not")
    out.line("  no lock is lost, however long it takes, as long as the server keeps its record")
    if item.vms:
        cells = [_cells(vm, look) for vm in item.vms]
        out.table(["vm", "frozen", "at second", "verdict by", "back by"], cells)
    else:
        out.line("  no VM of this host is there")


def _cells(vm: str, look: Outlook) -> list[str]:
    at = "-" if look.frozen == NOT else f"{look.freeze_from:.0f}-{look.freeze_until:.0f}"
    return [vm, look.frozen, at, f"{look.verdict_until:.0f}", f"{look.back_by:.0f}"]


def _as_json(item: Planned) -> dict[str, object]:
    look = item.outlook
    return {
        "mount": item.point,
        "server": item.server.name,
        "lease": item.lease,
        "vms": list(item.vms),
        "frozen": look.frozen if look is not None else "",
        "freeze_from": look.freeze_from if look is not None else None,
        "freeze_until": look.freeze_until if look is not None else None,
        "verdict_from": look.verdict_from if look is not None else None,
        "verdict_until": look.verdict_until if look is not None else None,
        "back_by": look.back_by if look is not None else None,
        "new_locks_at": look.new_locks_at if look is not None else None,
    }
