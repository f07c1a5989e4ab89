"""``vmguard history [VM]``: what the watchdog saw and did, incident by incident."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence

from vmguard.adapters.linux import clock, clock_sync
from vmguard.cli import host, past, picture_files, places
from vmguard.cli.arguments import span
from vmguard.cli.output import Output
from vmguard.core.pictures.chapters import Source
from vmguard.core.pictures.entry import LOST, Entry, incidents, kind_of, of_vm
from vmguard.core.reports.local_time import local_time
from vmguard.core.reports.status import Status
from vmguard.core.words import in_utf8
from vmguard.daemon.report import acknowledged
from vmguard.daemon.report.history import FILE, is_whole
from vmguard.errors import VmguardError

_MARKS = {"error": "!!", "warning": " !", "info": "  "}

#: how the evidence begins when the server does not know a lock any more, and no other host is named
_FORGOTTEN = "EIO"
_FORGOTTEN_HELP = (
    "why: the server does not know a lock any more. Either another host has the disk",
    "  (vmguard who FILE names it), or the server has forgotten the lock: it came back",
    "  without its records, or before its exports (ESTALE); or the other node of a pair",
    "  took over without them, or under another name (scope), or unlock_filesystem came",
    "  before the address was gone",
    "do now: if nobody has the disk, start the VM again. watch.after_fence: restart",
    "  does so by itself, and is safe here: it must claim the disks like any start",
    "  and is refused while another host has one. On the server, nfs-server must start",
    "  after the exported file systems: systemctl edit nfs-server, [Unit]",
    "  RequiresMountsFor=/the/export; /var/lib/nfs must survive a reboot",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", nargs="?", default="", help="only incidents of this VM, by name or uuid")
    parser.add_argument(
        "--acknowledge", action="store_true", help="what happened is known: status and check show those fences no more"
    )
    parser.add_argument("--last", metavar="N", type=int, default=10, help="how many incidents, the newest last (10)")
    parser.add_argument("--since", metavar="TIME", type=span, help="only incidents of the last 30m, 2h, 3d")
    picture_files.add_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    run_dir = where.run_dir
    if args.acknowledge:
        return _acknowledge(run_dir, out)
    answers = host.ask(where)
    names = [(vm.name, vm.uuid) for vm in answers.vms] + [(vm.name, vm.uuid) for vm in answers.fenced]
    uuids = [uuid for name, uuid in names if args.vm in (name, uuid)]
    health = answers.line(uuids if args.vm else None)
    entries = [Entry.from_json(value) for value in past.entries(where)]
    wanted = in_utf8(args.vm)  # as the history has it
    since = clock.boottime() - args.since if args.since else 0.0
    chosen = [some for incident in incidents(entries) if (some := of_vm(incident, wanted))]
    found = [incident for incident in chosen if incident[-1].boottime >= since][-max(args.last, 1) :]
    drawn = picture_files.write(args, [_source(run_dir, entries, answers)], wanted)
    if args.json:
        incidents_json = [[entry.json for entry in incident] for incident in found]
        out.json({"schema": 1, "health": health.as_json(), "incidents": incidents_json})
    else:
        host.begin(health, out)
        out.line()
    if not found:
        out.line(
            ("nothing in that time" if args.since else "nothing since the last boot")
            + (f" about VM '{args.vm}'" if args.vm else "")
        )
    for number, incident in enumerate(found):
        if number:
            out.line()
        _print(incident, out)
    for path in drawn:
        out.line(f"picture: {path}")
    host.end(health, out)
    return Status.OK  # it was asked what happened, not how this host stands


def _source(run_dir: str, entries: Sequence[Entry], answers: host.Answers) -> Source:
    """Return this host's history for a picture. While its daemon answers, no line is lacking at the end."""
    until = None if answers.problem else clock.boottime()
    path = os.path.join(run_dir, FILE)
    whole = os.path.exists(path) and is_whole(path)
    return Source(
        os.uname().nodename, entries, until, clock_note=picture_files.clock_words(clock_sync.read()), whole=whole
    )


def _acknowledge(run_dir: str, out: Output) -> int:
    known = acknowledged.fenced_lately(run_dir)
    try:
        acknowledged.acknowledge(run_dir)
    except OSError as problem:
        raise VmguardError(f"{run_dir} cannot be written: {problem.strerror}", "this takes root") from None
    if out.as_json:
        out.json({"schema": 1, "acknowledged": [killed.as_json() for killed in known]})
    else:
        out.status("OK", "; ".join(killed.sentence for killed in known) or "there was nothing to acknowledge")
    return Status.OK


def _print(incident: Sequence[Entry], out: Output) -> None:
    first, last = incident[0], incident[-1]
    length = last.boottime - first.boottime
    kind = kind_of(incident)
    out.line(f"{local_time(first.at)}, {length:.1f} s" + (f": {kind}" if kind else ""))
    for _, group in itertools.groupby(incident, key=lambda entry: (entry.code, entry.text)):
        same = list(group)
        times = f" ({len(same)} times)" if len(same) > 1 else ""
        mark = _MARKS.get(same[0].level, "  ")
        out.line(f"  {same[0].boottime - first.boottime:+8.2f} s {mark} {same[0].text}{times}")
    if any(entry.code == LOST and entry.field("evidence").startswith(_FORGOTTEN) for entry in incident):
        for line in _FORGOTTEN_HELP:
            out.line(f"      {line}")
