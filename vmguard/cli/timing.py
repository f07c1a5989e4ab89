"""``vmguard timing``: what happens when in an outage, for each mount of this host, second by second."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping

from vmguard.adapters.linux import clock, mounts, mountstats
from vmguard.adapters.servers.cache import Kept
from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.config import load
from vmguard.core.reports.health import Health
from vmguard.core.reports.status import Status
from vmguard.core.watchdog.timing import ImpossibleTiming, Timeline, Wishes, timeline
from vmguard.query import server_cache
from vmguard.query.places import Places

_WIDTH_COLUMNS = 72


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lease", metavar="SECONDS", type=float, help="for a server with this lease time instead")


def run(args: argparse.Namespace, out: Output) -> int:
    watch = load(args.config).watch
    wishes = Wishes(margin=watch.margin or None, probe=watch.probe or None, slow_round=watch.slow_round)
    if args.lease:  # about a server, not about this host
        return show({f"a lease of {args.lease:g} s": args.lease}, {}, wishes, args.json, out)
    where = places.of(args)
    answers = host.ask(where)
    probes = {mount.mount: mount.probes for mount in answers.health.mounts}
    return show(_leases(), probes, wishes, args.json, out, answers.line(), _told(where))


def show(
    leases: Mapping[str, float],
    probes: Mapping[str, str],
    wishes: Wishes,
    as_json: bool,
    out: Output,
    found: Health | None = None,
    told: Mapping[str, Kept] | None = None,
) -> int:
    """Print the timeline of each lease, for people or as JSON; return the exit status: CRITICAL where there is none.

    ``probes``: how the locks of a mount are probed, as far as that is known. ``found``: the health of this host, which
    the exit status leaves out: it was asked when what happens. ``told``: what the servers of mounts said of themselves.
    """
    answers: list[dict[str, object]] = []
    status = Status.OK
    if found is not None:
        host.begin(found, out)
        out.line()
    for number, (name, lease) in enumerate(leases.items()):
        kept = (told or {}).get(name)
        try:
            line = timeline(lease, dataclasses.replace(wishes, grace=kept.times.grace) if kept is not None else wishes)
        except ImpossibleTiming as problem:
            status = Status.CRITICAL
            answers.append({"mount": name, "lease": lease, "problem": str(problem)})
            out.status("CRITICAL", f"{name}: {problem}; the daemon goes by its defaults there")
            continue
        how = probes.get(name, "")
        answers.append(
            {
                "mount": name,
                "lease": lease,
                "probes": how,
                "grace": kept.times.grace if kept is not None else None,
                "new_locks_after": kept.times.new_locks_after if kept is not None else None,
                "outage": line.outage(),
                "recovery": line.recovery(),
            }
        )
        if number:
            out.line()
        _draw(name, line, out, how)
        if found is not None:
            out.line(f"  {_grace_words(kept)}")
    if as_json:
        health = {"health": found.as_json()} if found is not None else {}
        out.json({"schema": 1, **health, "mounts": answers})
    elif not leases:
        out.line("no NFSv4 mount on this host; try: vmguard timing --lease 90")
    if found is not None:
        host.end(found, out)
    return status


def _leases() -> dict[str, float]:
    return {point: seen.lease for point, seen in sorted(mountstats.statistics().items()) if seen.lease}


def _told(where: Places) -> dict[str, Kept]:
    """Return what the servers of this host's mounts said of themselves lately, by mount point."""
    kept = {mount.point: server_cache.of_mount(mount, where) for mount in mounts.mounts() if mount.is_nfs}
    return {point: found for point, found in kept.items() if found is not None}


def _grace_words(kept: Kept | None) -> str:
    """Say by whose word the grace period is."""
    if kept is None or kept.times.new_locks_after is None:
        return "the server's grace period is not known here, and is taken for as long as the lease"
    lockd = f", lockd's (NFSv3) {kept.times.lockd_grace:g} s" if kept.times.lockd_grace is not None else ""
    return (
        f"by the server's own word, {clock.boottime() - kept.at:.0f} s ago: grace {kept.times.grace:g} s{lockd}; new "
        f"locks {kept.times.new_locks_after:g} s after its start at the latest"
    )


def _draw(name: str, line: Timeline, out: Output, probes: str = "") -> None:
    out.line(f"{name}: lease {line.lease:g} s, asked every {line.probe:g} s, then every {line.urgent:g} s")
    if probes:
        out.line(f"probes: {probes}")
    out.line()
    out.line("  the server falls silent:")
    out.line("  " + bar(line))
    out.line("  " + scale(line))
    for second, what in line.outage():
        out.line(f" {second:6.1f} s {what}")
    out.line()
    out.line("  and when it answers again:")
    for second, what in line.recovery():
        out.line(f" {second:6.1f} s {what}")


def _column(line: Timeline, second: float) -> int:
    return min(_WIDTH_COLUMNS - 1, round(second / (line.expiry * 1.15) * _WIDTH_COLUMNS))


def bar(line: Timeline) -> str:
    """Draw a bar, one character a stretch of time: '.' healthy, '-' late, '#' frozen, '!' others may have the locks."""
    text = ""
    for column in range(_WIDTH_COLUMNS):
        late, freeze, expiry = (_column(line, age) for age in (line.late, line.freeze, line.expiry))
        text += "." if column < late else "-" if column < freeze else "#" if column < expiry else "!"
    return text


def scale(line: Timeline) -> str:
    """Draw the seconds below the bar, as far as there is room."""
    text = [" "] * (_WIDTH_COLUMNS + 6)
    for second, word in ((0.0, "0"), (line.late, "late"), (line.freeze, "FREEZE"), (line.expiry, "expired")):
        label = f"{word} {round(second, 1):.9g}" if second else word
        at = min(_column(line, second), _WIDTH_COLUMNS + 6 - len(label))
        if all(char == " " for char in text[max(0, at - 1) : at + len(label)]):
            text[at : at + len(label)] = label
    return "".join(text).rstrip()
