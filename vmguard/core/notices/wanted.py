"""Which target gets which event. Whatever opens an incident at a target is followed there by what ends it.

An incident is a word: ``frozen:libvirt-1``, ``mount:/srv/vm``. What ends one is told at any level, to those who were
told that it began, and to nobody else for that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from vmguard.core.notices.event import Event
from vmguard.core.watchdog.events import Level

_ORDER = {Level.INFO: 0, Level.WARNING: 1, Level.ERROR: 2}
#: code -> the incident that begins with it, and the field that it is about
_OPENS = {
    "vm.freeze": ("frozen", "vm"),
    "vm.conflict": ("conflict", "vm"),
    "vm.fence": ("fence", "vm"),
    "vm.disk-replaced": ("disk", "vm"),
    "mount.late": ("mount", "mount"),
    "mount.at-risk": ("mount", "mount"),
    "mount.expired": ("mount", "mount"),
    "watch.disarmed": ("disarmed", ""),
    "daemon.down": ("daemon", ""),
    "notify.failed": ("notify", "target"),
}
#: code -> the incidents that it ends
_ENDS = {
    "vm.thaw": (("frozen", "vm"),),
    "vm.fine-again": (("frozen", "vm"), ("conflict", "vm")),
    "vm.conflict-over": (("conflict", "vm"),),
    "vm.adopted": (("conflict", "vm"),),
    "vm.disk-back": (("disk", "vm"),),
    "vm.ended": tuple((kind, "vm") for kind in ("frozen", "conflict", "disk")),
    "vm.gone": tuple((kind, "vm") for kind in ("frozen", "conflict", "disk")),
    "fence.done": tuple((kind, "vm") for kind in ("fence", "frozen", "conflict", "disk")),
    "mount.healthy": (("mount", "mount"),),
    "mount.idle": (("mount", "mount"),),
    "watch.armed": (("disarmed", ""),),
    "daemon.up": (("daemon", ""),),
    "notify.delivered": (("notify", "target"),),
}
#: codes that are about a target: it is not told of itself
_ABOUT_A_TARGET = "notify."
#: incidents that are remembered for a target; beyond that the oldest are forgotten
MAX_OPEN = 2000


@dataclass(frozen=True)
class Wish:
    """What a target wants: events of this level and above whose code matches one of these patterns."""

    level: Level = Level.WARNING
    events: tuple[str, ...] = ("*",)

    def fits(self, event: Event) -> bool:
        return _ORDER[event.level] >= _ORDER[self.level] and any(_pattern(word)(event.code) for word in self.events)


def choose(
    target: str, wish: Wish, events: Iterable[Event], is_open: Iterable[str]
) -> tuple[list[Event], tuple[str, ...]]:
    """Return the events that a target gets, and the incidents that are open there afterwards.

    A daemon that starts while an incident is open tells its beginning again; it is passed on, and opens nothing new.
    """
    known = dict.fromkeys(is_open)
    chosen = []
    for event in events:
        if event.code.startswith(_ABOUT_A_TARGET) and event.fields.get("target") == target:
            continue
        ends = tuple(name for name in _ended(event) if name in known)
        if not ends and not wish.fits(event):
            continue
        begun = _begun(event)
        opens = tuple(name for name in begun if name not in known)
        for name in ends:
            del known[name]
        known |= dict.fromkeys(begun)
        chosen.append(replace(event, opens=opens, ends=ends))
    return chosen, tuple(known)[-MAX_OPEN:]


def _begun(event: Event) -> tuple[str, ...]:
    return (_name(*_OPENS[event.code], event.fields),) if event.code in _OPENS else ()


def _ended(event: Event) -> tuple[str, ...]:
    return tuple(_name(kind, about, event.fields) for kind, about in _ENDS.get(event.code, ()))


def _name(kind: str, about: str, fields: Mapping[str, str]) -> str:
    return f"{kind}:{fields.get(about, '')}" if about else kind


def _pattern(word: str) -> Callable[[str], object]:
    """Return what tells whether a code matches a pattern with * and ?."""
    inside = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in word)
    return re.compile(inside).fullmatch
