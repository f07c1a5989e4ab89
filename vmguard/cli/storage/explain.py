"""``vmguard storage explain``: why were locks lost? The server's own log, beside what it knows now."""

from __future__ import annotations

import argparse
import datetime

from vmguard.cli import host
from vmguard.cli.arguments import span
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.status import health_of
from vmguard.core.reports.local_time import after, local_time
from vmguard.core.servers import epilogue

_SINCE_S = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount", metavar="MOUNT", nargs="?", default="", help="only the server of this mount, or name")
    parser.add_argument("--since", type=span, metavar="TIME", default=_SINCE_S, help="how far back: 2h, 3d (1d)")


def run(args: argparse.Namespace, out: Output) -> int:
    found, me = asked.of(args, args.mount), asked.me()
    health = health_of(found, me)
    now = datetime.datetime.now(datetime.UTC)
    servers: list[dict[str, object]] = []
    if not args.json:
        host.begin(health, out)
    for one in found:
        if one.facts is None:
            servers.append({"name": one.name, "problem": one.problem, "lines": [], "conclusions": []})
            out.line(f"{one.name}: {one.problem}")
            continue
        lines = epilogue.entries(one.facts, args.since)
        told = epilogue.conclusions(one.facts, me.host, me.on_record(one.facts))
        at = [after(now, -entry.age) for entry in lines]
        servers.append(
            {
                "name": one.name,
                "problem": "",
                "lines": [
                    {"at": when, "text": entry.text, "meaning": entry.meaning}
                    for when, entry in zip(at, lines, strict=True)
                ],
                "conclusions": told,
            }
        )
        out.line()
        out.line(f"{one.name}, by its own log:" if lines else f"{one.name}: its log has nothing about that")
        for when, entry in zip(at, lines, strict=True):
            out.line(f"  {local_time(when, now)}  {entry.text}")
            out.line(f"      {entry.meaning}")
        for sentence in told:
            out.line(f"  now: {sentence}")
    if args.json:
        out.json({"schema": 1, "status": health.severity.name, "health": health.as_json(), "servers": servers})
        return health.severity
    out.line()
    out.line("what this host did: vmguard history")
    host.end(health, out)
    return health.severity
