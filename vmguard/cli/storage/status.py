"""``vmguard storage status [MOUNT]``: is the server up, in grace, for how long yet, and who has not come back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vmguard.cli import host
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.asked import Asked, Me
from vmguard.core.reports.health import Finding, Health, of_findings
from vmguard.core.reports.status import Status
from vmguard.core.servers import names
from vmguard.core.servers.facts import Client, ServerFacts
from vmguard.core.words import printable

_MOST_NAMES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount", metavar="MOUNT", nargs="?", default="", help="only the server of this mount, or name")


def run(args: argparse.Namespace, out: Output) -> int:
    found, me = asked.of(args, args.mount), asked.me()
    health = health_of(found, me)
    if args.json:
        servers = [_as_json(one, me) for one in found]
        out.json({"schema": 1, "status": health.severity.name, "health": health.as_json(), "servers": servers})
        return health.severity
    host.begin(health, out)
    for one in found:
        out.line()
        _print(one, me, out, args.verbose > 0)
    host.end(health, out)
    return health.severity


def health_of(found: Sequence[Asked], me: Me) -> Health:
    """Return the health line of the servers."""
    told = [finding for one in found for finding in findings(one, me)]
    names = ", ".join(printable(one.name) for one in found)
    return of_findings(told, f"{names}: serving, no grace period, this host is on record")


def findings(one: Asked, me: Me) -> list[Finding]:
    """Return what is to be said about one server."""
    name, facts = printable(one.name), one.facts
    if facts is None:
        return [
            Finding(
                Status.UNKNOWN, one.problem, one.hint or f"log in on {name}, or correct servers: in the configuration"
            )
        ]
    if facts.up is False:
        return [
            Finding(
                Status.CRITICAL, f"{name} serves nothing: nfsd has no threads", f"on {name}: systemctl start nfs-server"
            )
        ]
    told = []
    if facts.grace.holds_up_locks:
        todo = (
            f"wait; vmguard storage watch {name}"
            if not facts.grace.missing
            else "start the hosts that are missing, or wait"
        )
        told.append(Finding(Status.WARNING, f"{name} is in its grace period: {_grace(facts)}", todo))
    if me.on_record(facts) is False and _is_client(facts, me):
        text = f"{me.host} is NOT on {name}'s record: at a reboot its locks could not be reclaimed"
        told.append(Finding(Status.CRITICAL, text, "vmguard storage doctor"))
    return told


def _is_client(facts: ServerFacts, me: Me) -> bool:
    return any(me.is_named(client.name) for client in facts.clients or ())


def _grace(facts: ServerFacts) -> str:
    """Say who holds up new locks, for how long yet, and who is missing."""
    left = facts.grace.left(facts.times)
    who = "NFSv4's" if facts.grace.v4 else "only lockd's (NFSv3)"
    words = [f"{who}, new locks wait " + (f"{left:.0f} s more at most" if left is not None else "for a time not known")]
    may = facts.grace.may_reclaim
    if facts.grace.v4 and may:
        missing = names.hosts(facts.grace.missing)
        listed = f"; missing: {_listed(missing)}" if missing else ""
        words.append(f"{len(may) - len(facts.grace.missing)} of {len(may)} have reclaimed{listed}")
    return ", ".join(words)


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_NAMES} more" if len(words) > _MOST_NAMES else ""
    return ", ".join(printable(word) for word in words[:_MOST_NAMES]) + more


def _print(one: Asked, me: Me, out: Output, verbose: bool) -> None:
    facts = one.facts
    where = ", ".join(one.points) or "not mounted here"
    if facts is None:
        out.line(f"{one.name} ({where}): no answer")
        return
    out.line(f"{one.name} ({where}): {facts.version}, {facts.kind}, scope {facts.scope or '?'}")
    out.line(f"  {times_words(facts)}")
    out.line(f"  in grace: {_grace(facts) if facts.grace.holds_up_locks else _no(facts.grace.holds_up_locks)}")
    memory = facts.memory
    if memory is None or memory.problem:
        out.line(f"  on record: not known{': ' + memory.problem if memory is not None else ''}")
    else:
        mine = {True: "yes", False: "NO", None: "not known"}[me.on_record(facts)]
        out.line(f"  on record: {_listed(names.hosts(list(memory.recorded))) or 'nobody'}; this host: {mine}")
    if facts.clients:
        out.line()
        rows = [_row(client, facts, me) for client in sorted(facts.clients, key=lambda client: client.host)]
        out.table(["host", "address", "version", "state", "renewed", "locks"], rows)
    for words in [*facts.unknown, *one.server.blind_to] if verbose else facts.unknown:
        out.line(f"  not known: {words}")


def times_words(facts: ServerFacts) -> str:
    """Say the server's own spans."""
    times = facts.times
    lockd = f", lockd's (NFSv3) {_s(times.lockd_grace)}" if times.lockd_grace is not None else ""
    starts = times.new_locks_after
    new = f"; new locks {starts:.0f} s after its start at the latest" if starts is not None else ""
    return f"lease {_s(times.lease)}, grace {_s(times.grace)}{lockd}{new}"


def _s(seconds: float | None) -> str:
    return f"{seconds:g} s" if seconds is not None else "not known"


def _no(known: bool | None) -> str:
    return "no" if known is False else "not known"


def _row(client: Client, facts: ServerFacts, me: Me) -> list[str]:
    locks = sum(lock.kind == "lock" and lock.client.number == client.number for lock in facts.locks)
    mark = " (this host)" if me.is_named(client.name) else ""
    idle = f"{client.idle:.0f} s ago" if client.idle is not None else "?"
    version = f"4.{client.minor}" if client.minor is not None else "?"
    return [client.host + mark, client.address, version, client.state, idle, str(locks)]


def _as_json(one: Asked, me: Me) -> dict[str, object]:
    facts = one.facts
    known: dict[str, object] = {"name": one.name, "mounts": one.points, "problem": one.problem}
    if facts is None:
        return {**known, "facts": None}
    memory, grace, times = facts.memory, facts.grace, facts.times
    return {
        **known,
        "facts": {
            "kind": facts.kind,
            "version": facts.version,
            "scope": facts.scope,
            "up": facts.up,
            "lease": times.lease,
            "grace": times.grace,
            "lockd_grace": times.lockd_grace,
            "in_grace": grace.v4,
            "lockd_in_grace": grace.lockd,
            "grace_left": grace.left(times),
            "may_reclaim": list(grace.may_reclaim),
            "missing": grace.missing,
            "recorded": list(memory.recorded) if memory is not None else [],
            "this_host_on_record": me.on_record(facts),
            "clients": [_client(client) for client in facts.clients or ()],
            "unknown": [*facts.unknown, *one.server.blind_to],
        },
    }


def _client(client: Client) -> dict[str, object]:
    return {
        "host": client.host,
        "name": client.name,
        "address": client.address,
        "state": client.state,
        "idle": client.idle,
    }
