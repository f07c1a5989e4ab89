"""Many events as one message: what happened in a line, whom it is about, the one cause, what is over, what to do.

Fifty VMs that are frozen at one moment are one sentence with a list. A name is shown as anywhere else
(``printable``), so none begins a line or a header of its own; the JSON has names as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vmguard.core.notices.event import Event
from vmguard.core.watchdog.events import Level
from vmguard.core.words import in_utf8, printable

#: version of the JSON; keys may be added
SCHEMA = 1
#: characters of the subject, and of a name in it
_MAX_SUBJECT = 160
_MAX_NAME = 60
#: names in a list, events in a text, events in the JSON
_MAX_NAMES = 200
_MAX_LINES = 100
MAX_EVENTS = 500
#: code -> what one VM and what several VMs do
_OF_VMS = {
    "vm.freeze": ("is frozen", "are frozen"),
    "vm.thaw": ("goes on", "go on"),
    "vm.fence": ("is being killed (fenced)", "are being killed (fenced)"),
    "fence.done": ("was killed (fenced)", "were killed (fenced)"),
    "lock.lost": ("LOST a lock", "LOST locks"),
    "vm.conflict": ("is in conflict with another host", "are in conflict with other hosts"),
    "vm.conflict-over": ("has its disks alone again", "have their disks alone again"),
    "vm.ended": ("has ended", "have ended"),
    "vm.ignored": ("runs UNGUARDED", "run UNGUARDED"),
    "start.refused": ("was not started", "were not started"),
}
#: the subject is about the first of these that happened, else about the worst level
_RANK = (
    *("fence.host", "lock.lost", "vm.fence", "vm.conflict", "fence.done", "vm.freeze", "daemon.down"),
    *("vm.disk-replaced", "vm.ignored", "mount.expired", "mount.at-risk", "start.refused", "vm.thaw", "mount.late"),
)
_LEVELS = {Level.ERROR: 0, Level.WARNING: 1, Level.INFO: 2}


@dataclass(frozen=True)
class Message:
    """What is sent. ``subject`` is one printable line, ``text`` printable lines."""

    id: str
    host: str
    level: Level
    #: open: something began; ended: all that it is about is over; event: neither
    state: str
    subject: str
    text: str
    events: tuple[Event, ...]
    #: events that were not kept, because too much was waiting
    dropped: int = 0
    is_test: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the body of a web hook. Names are exact there."""
        told: dict[str, Any] = in_utf8(
            {
                "schema": SCHEMA,
                "id": self.id,
                "host": self.host,
                "level": str(self.level),
                "state": self.state,
                "subject": self.subject,
                "text": self.text,
                "test": self.is_test,
                "dropped": self.dropped,
                "events_total": len(self.events),
                "events": [event.as_json() for event in self.events[:MAX_EVENTS]],
            }
        )
        return told


def compose(events: Sequence[Event], host: str, dropped: int = 0, is_test: bool = False) -> Message:
    """Put events, oldest first and at least one, into a message."""
    groups = _groups(events)
    first = groups[0]
    level = min((event.level for event in events), key=_LEVELS.__getitem__)
    state = "open" if any(event.opens for event in events) else "event"
    if state == "event" and any(event.ends for event in events):
        state = "ended"
    mark = hashlib.sha256("\n".join(event.id for event in events).encode()).hexdigest()[:24]
    more = len(groups) - 1
    subject = f"[vmguard {printable(host[:_MAX_NAME])}] {_headline(first)}"
    subject = _cut(subject, _MAX_SUBJECT - 20) + (f" (+{more} more)" if more else "")
    return Message(mark, host, level, state, subject, _text(groups, host, dropped), tuple(events), dropped, is_test)


def _groups(events: Iterable[Event]) -> list[list[Event]]:
    """Return events of one code together, the most important group first; else in the order in which they began."""
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.code, []).append(event)

    def rank(group: list[Event]) -> tuple[int, int]:
        code = group[0].code
        return (_RANK.index(code) if code in _RANK else len(_RANK), _LEVELS[group[0].level])

    return sorted(found.values(), key=rank)


def _headline(group: Sequence[Event]) -> str:
    names = _names(group)
    one, many = _OF_VMS.get(group[0].code, ("", ""))
    cause = _cause(group)
    because = f": {cause}" if cause else ""
    if one and len(names) == 1:
        return f"VM '{_cut(names[0], _MAX_NAME)}' {one}{because}"
    if one and names:
        return f"{len(names)} VMs {many}{because}"
    text = printable(group[-1].text)
    return f"{text} (and {len(group) - 1} more)" if len(group) > 1 else text


def _names(group: Iterable[Event]) -> list[str]:
    return list(dict.fromkeys(printable(event.vm) for event in group if event.vm))


def _cause(group: Sequence[Event]) -> str:
    """Return what stands behind the first colon of a sentence, if all say the same; else nothing."""
    causes = {event.text.partition(": ")[2] for event in group}
    return printable(causes.pop()) if len(causes) == 1 else ""


def _text(groups: Sequence[Sequence[Event]], host: str, dropped: int) -> str:
    first, last = groups[0][0], max(event.at for group in groups for event in group)
    lines = [f"host {printable(host)}, {printable(first.at)}" + (f" to {printable(last)}" if last != first.at else "")]
    for group in groups:
        lines += ["", f"{str(group[0].level).upper()}: {_headline(group)}  [{printable(group[0].code)}]"]
        lines += _details(group)
    if dropped:
        lines += ["", f"{dropped} earlier events were dropped: too much was waiting (vmguard history has them)"]
    over = sorted({name for group in groups for event in group for name in event.ends})
    if over:
        lines += ["", f"over: {len(over)} incident{'s' * (len(over) != 1)} that you were told of"]
    return "\n".join([*lines, "", "vmguard status says how it stands, vmguard history what led to it."]) + "\n"


def _details(group: Sequence[Event]) -> list[str]:
    names = _names(group)
    if len(names) > 1 and group[0].code in _OF_VMS:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        lines = [f"  {', '.join(names[:_MAX_NAMES])}{more}"]
        if not _cause(group):
            lines += [f"  {printable(event.text)}" for event in group[:_MAX_LINES]]
        return lines
    shown = (
        [f"  {printable(event.at)} {printable(event.text)}" for event in group[:_MAX_LINES]] if len(group) > 1 else []
    )
    return shown + ([f"  and {len(group) - _MAX_LINES} more"] if len(group) > _MAX_LINES else [])


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
