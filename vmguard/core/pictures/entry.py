"""One line of a host's history, and incidents: lines that lie close together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: silence that separates two incidents
INCIDENT_GAP_S = 120.0
#: no host is up for longer
_LONGEST_S = 1e10
LATE, HEALTHY, RECOVERING = "mount.late", "mount.healthy", "mount.recovering"
#: lines that say once more what is known
REMINDERS = frozenset({"vm.still-frozen"})
LOST, NEW_SESSION = "lock.lost", "mount.new-session"


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
        fields = value.get("fields")
        return cls(
            at=str(value.get("at", "?")),
            boottime=_seconds(value.get("boottime")),
            level=str(value.get("level")),
            code=str(value.get("code")),
            text=str(value.get("text", "")),
            fields={name: str(text) for name, text in fields.items()} if isinstance(fields, dict) else {},
            json=value,
        )

    def field(self, name: str) -> str:
        return self.fields.get(name, "")

    def number(self, name: str) -> float | None:
        """Return a field as a number; None if it is none."""
        try:
            value = float(self.field(name))
        except ValueError:
            return None
        return value if math.isfinite(value) else None


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return 0.0
    return seconds if 0 <= seconds <= _LONGEST_S else 0.0


def incidents(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries that lie close together. A server that falls silent once more begins another incident."""
    found: list[list[Entry]] = []
    for before, entry in zip([None, *entries], entries, strict=False):
        is_far = before is None or abs(entry.boottime - before.boottime) > INCIDENT_GAP_S
        if is_far or (entry.code == LATE and _is_over(found[-1], entry.field("mount"))):
            found.append([])
        found[-1].append(entry)
    return found


def _is_over(incident: Sequence[Entry], mount: str) -> bool:
    """Return whether a mount fell silent in an incident and answers again."""
    codes = [entry.code for entry in incident if entry.field("mount") == mount and entry.code.startswith("mount.")]
    return LATE in codes and HEALTHY in codes[codes.index(LATE) :]


def kind_of(incident: Sequence[Entry]) -> str:
    """Say what kind of outage an incident was; empty when the storage was not silent, or is so still."""
    codes = [entry.code for entry in incident]
    if LATE not in codes or not {HEALTHY, RECOVERING} & set(codes[codes.index(LATE) :]):
        return ""
    if LOST in codes:
        return "the storage came back, and a lock was lost"
    if NEW_SESSION in codes[codes.index(LATE) :]:
        return "the storage was restarted, or had given this host up; no lock was lost"
    return "the way to the storage was cut; it kept this host's session"


def of_vm(incident: Sequence[Entry], wanted: str) -> list[Entry]:
    """Return a VM's own entries and those of its mounts; none when it had no part in the incident.

    ``wanted``: its name, uuid or id; empty: all VMs.
    """
    if not wanted:
        return list(incident)
    own = [entry for entry in incident if wanted in (entry.field(name) for name in ("name", "uuid", "vm"))]
    if not own:
        return []
    mounts = {entry.field("mount") for entry in own} | {""}
    return [entry for entry in incident if entry in own or (not entry.field("vm") and entry.field("mount") in mounts)]
