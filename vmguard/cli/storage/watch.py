"""``vmguard storage watch``: a maintenance as it goes, line by line, and a report at the end. This host's VMs alone."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

from vmguard.adapters.linux import clock
from vmguard.cli import host, places
from vmguard.cli.arguments import duration
from vmguard.cli.host import Answers
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.asked import Asked
from vmguard.core.reports.status import Status
from vmguard.core.servers import names
from vmguard.core.words import printable

_EVERY_S = 2.0


@dataclass
class Board:
    """What was seen so far. Seconds of CLOCK_BOOTTIME."""

    frozen_since: dict[str, float] = field(default_factory=dict)
    #: VM -> the longest time for which it stood still
    longest: dict[str, float] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    last: str = ""

    def see(self, now: float, found: list[Asked], answers: Answers) -> str:
        """Take a look in; return a line if anything has changed, else nothing."""
        for vm in answers.vms:
            if vm.frozen:
                since = self.frozen_since.setdefault(vm.name, now)
                self.longest[vm.name] = max(self.longest.get(vm.name, 0.0), now - since)
            else:
                self.frozen_since.pop(vm.name, None)
            if vm.fencing:
                self.lost.add(vm.name)
        frozen = len(self.frozen_since)
        line = "; ".join([*map(server_words, found), f"{len(answers.vms)} VMs here, {frozen} frozen"])
        if self.lost:
            line += f", {len(self.lost)} lost"
        if line == self.last:
            return ""
        self.last = line
        return line


def server_words(one: Asked) -> str:
    """Say in a few words how a server is."""
    name = printable(one.name)
    if one.facts is None:
        return f"{name} does not answer"
    grace = one.facts.grace
    if not grace.holds_up_locks:
        return f"{name} serves"
    may, missing = len(grace.may_reclaim), grace.missing
    back = f", {may - len(missing)} of {may} back" if may else ""
    left = f" (missing: {', '.join(map(printable, names.hosts(missing)[:3]))})" if missing else ""
    return f"{name} in grace{'' if grace.v4 else ' (lockd)'}{back}{left}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount", metavar="MOUNT", nargs="?", default="", help="only the server of this mount, or name")
    parser.add_argument(
        "--for", dest="seconds", type=duration(), metavar="TIME", default=600.0, help="for how long (10m)"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    board, where = Board(), places.of(args)
    deadline = clock.boottime() + args.seconds
    began = clock.boottime()
    try:
        while (now := clock.boottime()) < deadline:
            found = asked.of(args, args.mount)
            line = board.see(now, found, host.ask(where))
            if line:
                out.line(f"{now - began:7.1f} s  {line}")
            time.sleep(max(0.0, min(_EVERY_S, deadline - clock.boottime())))
    except KeyboardInterrupt:
        pass
    return _report(board, clock.boottime() - began, args, out)


def _report(board: Board, seconds: float, args: argparse.Namespace, out: Output) -> int:
    status = Status.CRITICAL if board.lost else Status.OK
    if args.json:
        stood = [{"vm": vm, "longest": round(longest, 1)} for vm, longest in sorted(board.longest.items())]
        out.json(
            {
                "schema": 1,
                "status": status.name,
                "seconds": round(seconds, 1),
                "stood": stood,
                "lost": sorted(board.lost),
            }
        )
        return status
    out.line()
    still = len(board.longest)
    out.status(status.name, f"{seconds:.0f} s watched: {still} VMs stood still, {len(board.lost)} were lost")
    if board.longest:
        out.table(["vm", "longest"], [[vm, f"{longest:.0f} s"] for vm, longest in sorted(board.longest.items())])
    return status
