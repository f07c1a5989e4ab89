"""``vmguard history [VM]``: what the watchdog saw and did, incident by incident."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import Status
from vmguard.daemon.report.history import read

#: seconds of silence that separate two incidents
_APART = 120.0
_MARKS = {"error": "!!", "warning": " !", "info": "  "}

Entry = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", nargs="?", default="", help="only incidents of this VM, by name or uuid")
    parser.add_argument("--last", metavar="N", type=int, default=10, help="how many incidents, the newest last (10)")


def run(args: argparse.Namespace, out: Output) -> int:
    entries = read(places.of(args).run_dir)
    found = [chosen for incident in incidents(entries) if (chosen := _of_vm(incident, args.vm))][-max(args.last, 1) :]
    if args.json:
        out.json({"schema": 1, "incidents": found})
    elif not found:
        out.line("nothing since the last boot" + (f" about VM '{args.vm}'" if args.vm else ""))
    for number, incident in enumerate(found):
        if number:
            out.line()
        _print(incident, out)
    return Status.OK


def incidents(entries: list[Entry]) -> list[list[Entry]]:
    """Entries that lie close together belong together."""
    found: list[list[Entry]] = []
    for before, entry in zip([None, *entries], entries, strict=False):
        if before is None or abs(_time(entry) - _time(before)) > _APART:
            found.append([])
        found[-1].append(entry)
    return found


def _of_vm(incident: list[Entry], wanted: str) -> list[Entry]:
    """The VM's own entries and those of its mounts; nothing when it had no part in the incident."""
    if not wanted:
        return incident
    own = [entry for entry in incident if wanted in (_field(entry, name) for name in ("name", "uuid", "vm"))]
    mounts = {_field(entry, "mount") for entry in own} - {""}
    return [
        entry
        for entry in incident
        if entry in own or (not _field(entry, "vm") and _field(entry, "mount") in {*mounts, ""})
    ] * bool(own)


def _print(incident: list[Entry], out: Output) -> None:
    first, last = incident[0], incident[-1]
    length = _time(last) - _time(first)
    out.line(f"{str(first.get('at', '?')).replace('T', ' ').replace('Z', ' UTC')}, {length:.1f} s")
    for _, group in itertools.groupby(incident, key=lambda entry: (entry.get("code"), entry.get("text"))):
        same = list(group)
        times = f" ({len(same)} times)" if len(same) > 1 else ""
        mark = _MARKS.get(str(same[0].get("level")), "  ")
        out.line(f"  {_time(same[0]) - _time(first):+8.2f} s {mark} {same[0].get('text', '')}{times}")


def _time(entry: Entry) -> float:
    value = entry.get("boottime")
    return float(value) if isinstance(value, int | float) else 0.0


def _field(entry: Entry, name: str) -> str:
    fields = entry.get("fields")
    return str(fields.get(name, "")) if isinstance(fields, dict) else ""
