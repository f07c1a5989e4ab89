"""``vmguard history [VM]``: what the watchdog saw and did, incident by incident."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.core.reports.local_time import local_time
from vmguard.core.reports.status import Status
from vmguard.core.words import in_utf8
from vmguard.daemon.report import acknowledged
from vmguard.daemon.report.history import read
from vmguard.errors import VmguardError

#: silence that separates two incidents
_INCIDENT_GAP_S = 120.0
_MARKS = {"error": "!!", "warning": " !", "info": "  "}

_LATE, _HEALTHY, _RECOVERING = "mount.late", "mount.healthy", "mount.recovering"
_LOST, _NEW_SESSION = "lock.lost", "mount.new-session"

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


@dataclass(frozen=True)
class Entry:
    """One line of the history. Whatever it lacks, or has in another type, is empty: garbage must not hide the rest."""

    #: UTC, ISO
    at: str
    #: CLOCK_BOOTTIME seconds
    boottime: float
    level: str
    code: str
    text: str
    fields: Mapping[str, str]
    #: the line as it was written, for --json
    json: Mapping[str, object]

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Entry:
        boottime, fields = value.get("boottime"), value.get("fields")
        return cls(
            at=str(value.get("at", "?")),
            boottime=float(boottime) if isinstance(boottime, int | float) else 0.0,
            level=str(value.get("level")),
            code=str(value.get("code")),
            text=str(value.get("text", "")),
            fields={name: str(text) for name, text in fields.items()} if isinstance(fields, dict) else {},
            json=value,
        )

    def field(self, name: str) -> str:
        return self.fields.get(name, "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", metavar="VM", nargs="?", default="", help="only incidents of this VM, by name or uuid")
    parser.add_argument(
        "--acknowledge", action="store_true", help="what happened is known: status and check show those fences no more"
    )
    parser.add_argument("--last", metavar="N", type=int, default=10, help="how many incidents, the newest last (10)")


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    run_dir = where.run_dir
    if args.acknowledge:
        return _acknowledge(run_dir, out)
    answers = host.ask(where)
    names = [(vm.name, vm.uuid) for vm in answers.vms] + [(vm.name, vm.uuid) for vm in answers.fenced]
    uuids = [uuid for name, uuid in names if args.vm in (name, uuid)]
    health = answers.line(uuids if args.vm else None)
    entries = [Entry.from_json(value) for value in read(run_dir)]
    wanted = in_utf8(args.vm)  # as the history has it
    found = [chosen for incident in incidents(entries) if (chosen := _of_vm(incident, wanted))][-max(args.last, 1) :]
    if args.json:
        incidents_json = [[entry.json for entry in incident] for incident in found]
        out.json({"schema": 1, "health": health.as_json(), "incidents": incidents_json})
    else:
        host.begin(health, out)
        out.line()
    if not found:
        out.line("nothing since the last boot" + (f" about VM '{args.vm}'" if args.vm else ""))
    for number, incident in enumerate(found):
        if number:
            out.line()
        _print(incident, out)
    host.end(health, out)
    return health.severity


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


def incidents(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries that lie close together. A server that falls silent once more begins another incident."""
    found: list[list[Entry]] = []
    for before, entry in zip([None, *entries], entries, strict=False):
        is_far = before is None or abs(entry.boottime - before.boottime) > _INCIDENT_GAP_S
        if is_far or (entry.code == _LATE and _is_over(found[-1], entry.field("mount"))):
            found.append([])
        found[-1].append(entry)
    return found


def _is_over(incident: Sequence[Entry], mount: str) -> bool:
    """Return whether a mount fell silent in an incident and answers again."""
    codes = [entry.code for entry in incident if entry.field("mount") == mount and entry.code.startswith("mount.")]
    return _LATE in codes and _HEALTHY in codes[codes.index(_LATE) :]


def kind_of(incident: Sequence[Entry]) -> str:
    """Say what kind of outage an incident was; empty when the storage was not silent, or is so still."""
    codes = [entry.code for entry in incident]
    if _LATE not in codes or not {_HEALTHY, _RECOVERING} & set(codes[codes.index(_LATE) :]):
        return ""
    if _LOST in codes:
        return "the storage came back, and a lock was lost"
    if _NEW_SESSION in codes[codes.index(_LATE) :]:
        return "the storage was restarted, or had given this host up; no lock was lost"
    return "the way to the storage was cut; it kept this host's session"


def _of_vm(incident: list[Entry], wanted: str) -> list[Entry]:
    """Return a VM's own entries and those of its mounts; none when it had no part in the incident."""
    if not wanted:
        return incident
    own = [entry for entry in incident if wanted in (entry.field(name) for name in ("name", "uuid", "vm"))]
    if not own:
        return []
    mounts = {entry.field("mount") for entry in own} | {""}
    return [entry for entry in incident if entry in own or (not entry.field("vm") and entry.field("mount") in mounts)]


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
    if any(entry.code == _LOST and entry.field("evidence").startswith(_FORGOTTEN) for entry in incident):
        for line in _FORGOTTEN_HELP:
            out.line(f"      {line}")
