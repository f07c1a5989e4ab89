"""What the lines about one VM say: freeze, thaw, verdicts, conflicts, the steps of a fence.

A freeze that was only decided (disarmed, log-only) is another kind of bar than one that was done. A freeze or thaw that
could not be proven is unknown from then on. What was true when a daemon ended is unknown until a line says it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vmguard.core.pictures.bars import STRIPS, Bar, Kind, Lane, Mark, Place, Sign
from vmguard.core.pictures.entry import Entry
from vmguard.core.watchdog.fence_ladder import Rung

_HELD = re.compile(r"thawed after (\d{1,9}(?:\.\d{1,3})?) s")
_DONE = {Kind.FROZEN: Kind.WOULD_FREEZE, Kind.FENCING: Kind.WOULD_FENCE}
_WOULD = frozenset(_DONE.values())
#: what a line begins as a strip below the bars, and what ends it
_BEGINS = {"conflict": Kind.CONFLICT, "ignored": Kind.UNGUARDED, "disk-replaced": Kind.REPLACED}
_ENDS = {
    "conflict-over": (Kind.CONFLICT, Kind.UNGUARDED),
    "adopted": (Kind.CONFLICT,),
    "fine-again": (Kind.UNGUARDED,),
    "disk-back": (Kind.REPLACED,),
}


@dataclass
class _Open:
    """A bar without its end yet."""

    kind: Kind
    begin: float
    text: str
    begin_known: bool = True
    steps: list[tuple[float, str]] = field(default_factory=list)

    def ended(self, end: float, by: str = "", known: bool = True) -> Bar:
        steps = tuple(self.steps)
        return Bar(self.kind, self.begin, max(end, self.begin), self.text, by, self.begin_known, known, steps)


class VmLane:
    """Takes the lines of one VM of one host in their order."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.name = key
        self._also: set[str] = {key}
        self._mounts: set[str] = set()
        self._bars: list[Bar] = []
        self._marks: list[Mark] = []
        self._open: _Open | None = None
        self._strips: dict[Kind, _Open] = {}
        #: since when it is unknown what became of a bar that was open, and what it was
        self._blind: tuple[float, str] | None = None

    def is_of(self, word: str) -> bool:
        """Return whether a name or uuid is this VM's."""
        return word in self._also

    def take(self, entry: Entry) -> None:
        """Take the next line about the VM."""
        self.name = entry.field("name") or self.name
        self._also |= {text for text in (entry.field("name"), entry.field("uuid")) if text}
        self._mounts |= {entry.field("mount")} - {""}
        kind, _, what = entry.code.partition(".")
        take = _TAKES.get(entry.code)
        if take is not None:
            take(self, entry)
        elif kind == "fence" and what in frozenset(Rung):
            self._step(Rung(what), entry)
        elif kind == "vm" and what in _BEGINS:
            self._strips.setdefault(_BEGINS[what], _Open(_BEGINS[what], entry.boottime, entry.text))
            self._mark(Sign.ALARM, entry)
        elif kind == "vm" and what in _ENDS:
            self._end_strips(entry.boottime, entry.text, *_ENDS[what])
            self._mark(Sign.NOTE, entry)
        else:
            self._mark(Sign.ALARM if entry.level == "error" else Sign.NOTE, entry)

    def armed(self, entry: Entry) -> None:
        """What was only decided is decided anew."""
        if self._open is not None and self._open.kind in _WOULD:
            self._close(entry.boottime, entry.text)

    def blind(self, since: float) -> None:
        """A daemon ended, some time after ``since``: a frozen VM may have become anything."""
        if self._open is not None:
            self._blind = (since, f"{self._open.kind} when the daemon ended; what became of it is not told")
            self._close(since, known=False)
        for kind in list(self._strips):
            self._bars.append(self._strips.pop(kind).ended(since, known=False))

    def lane(self, host: str, until: float) -> Lane:
        """Return what was found; what is open is so until the last line."""
        if self._open is not None:
            self._close(until, known=False)
        elif self._blind is not None:
            self._see(until, "", told=False)
        for kind in list(self._strips):
            self._bars.append(self._strips.pop(kind).ended(until, known=False))
        bars = tuple(sorted(self._bars, key=lambda bar: (bar.kind in STRIPS, bar.begin)))
        also, mounts = frozenset(self._also), frozenset(self._mounts)
        return Lane(host, Place.VM, self.key, self.name, bars, tuple(self._marks), also=also, mounts=mounts)

    # -- bars --------------------------------------------------------------------------------------------------------

    def _close(self, now: float, by: str = "", known: bool = True) -> None:
        was, self._open = self._open, None
        if was is not None:
            self._bars.append(was.ended(now, by, known))

    def _see(self, now: float, by: str, told: bool = True) -> None:
        """End a time about which nothing is known; ``told``: a line tells what is true from ``now`` on."""
        if self._blind is None:
            return
        since, text = self._blind
        self._blind = None
        if now > since:
            self._bars.append(Bar(Kind.UNKNOWN, since, now, text, by, begin_known=False, end_known=told))

    def _mark(self, sign: Sign, entry: Entry) -> None:
        self._marks.append(Mark(sign, entry.boottime, entry.text))

    def _end_strips(self, now: float, by: str, *kinds: Kind) -> None:
        for kind in kinds:
            if kind in self._strips:
                self._bars.append(self._strips.pop(kind).ended(now, by))

    # -- freeze and thaw ---------------------------------------------------------------------------------------------

    def _freeze(self, entry: Entry) -> None:
        now = entry.boottime
        self._see(now, entry.text)
        was = self._open
        if was is not None and was.kind not in _WOULD:
            self._open = replace(was, kind=Kind.UNKNOWN, text=f"{was.text}; its end is not told: lines are lacking")
        self._close(now, entry.text)
        self._open = _Open(_as_done(Kind.FROZEN, entry), now, entry.text)

    def _thaw(self, entry: Entry) -> None:
        now = entry.boottime
        kind = Kind.WOULD_FREEZE if "would be" in entry.text else Kind.FROZEN
        if self._open is None:
            held = _HELD.search(entry.text)
            begin = now - float(held[1]) if held is not None else now
            self._see(min(begin, now), entry.text)
            told = f"it was frozen before; by its own words: {entry.text}"
            self._open = _Open(kind, max(begin, 0.0), told, begin_known=False)
        self._close(now, entry.text)
        self._mark(Sign.KEPT, entry)

    def _still_frozen(self, entry: Entry) -> None:
        if self._open is None:
            self._see(entry.boottime, entry.text)
            kind = _as_done(Kind.FROZEN, entry)
            self._open = _Open(kind, entry.boottime, f"it was frozen before; {entry.text}", begin_known=False)
        self._mark(Sign.NOTE, entry)

    def _freeze_failed(self, entry: Entry) -> None:
        if self._open is not None:
            self._open.kind = Kind.UNKNOWN
            self._open.text = f"a freeze was ordered, and is not proven: {entry.text}"
        self._mark(Sign.ALARM, entry)

    def _thaw_failed(self, entry: Entry) -> None:
        last = next((bar for bar in reversed(self._bars) if bar.kind is Kind.FROZEN), None)
        if last is not None and self._open is None:
            text = f"a thaw was ordered, and is not proven: {entry.text}"
            self._bars.append(Bar(Kind.UNKNOWN, last.end, entry.boottime, text, entry.text, end_known=False))
        self._mark(Sign.ALARM, entry)

    # -- the end of a VM ---------------------------------------------------------------------------------------------

    def _fence(self, entry: Entry) -> None:
        now = entry.boottime
        self._see(now, entry.text)
        self._close(now, entry.text)
        self._open = _Open(_as_done(Kind.FENCING, entry), now, entry.text)

    def _step(self, rung: Rung, entry: Entry) -> None:
        """Take a step of a fence. Its lines say how long ago the fence began, if the line about that is lacking."""
        now = entry.boottime
        if self._open is None or self._open.kind is not Kind.FENCING:
            begin = max(now - (entry.number("since_begin") or 0.0), 0.0)
            self._see(begin, entry.text)
            self._close(begin, entry.text)
            self._open = _Open(Kind.FENCING, begin, f"a fence that had begun: {entry.text}", begin_known=False)
        self._open.steps.append((now, str(rung)))
        if rung is Rung.DONE:
            self._close(now, entry.text)
            self._mark(Sign.GONE, entry)
        elif entry.level == "error":
            self._mark(Sign.ALARM, entry)

    def _gone(self, entry: Entry) -> None:
        """Its QEMU has ended, or its locks are released. A fence goes on to its last step."""
        now = entry.boottime
        self._see(now, entry.text)
        if self._open is None or self._open.kind is not Kind.FENCING:
            self._close(now, entry.text)
            self._mark(Sign.GONE, entry)
        self._end_strips(now, entry.text, *STRIPS)

    def _lost(self, entry: Entry) -> None:
        self._mark(Sign.LOST if entry.level == "error" else Sign.NOTE, entry)


def _as_done(kind: Kind, entry: Entry) -> Kind:
    """Return the kind for what was done; another one for what was only decided."""
    return _DONE[kind] if entry.field("not_done") else kind


_TAKES: dict[str, Callable[[VmLane, Entry], None]] = {
    "vm.freeze": VmLane._freeze,
    "vm.thaw": VmLane._thaw,
    "vm.still-frozen": VmLane._still_frozen,
    "vm.freeze-failed": VmLane._freeze_failed,
    "vm.thaw-failed": VmLane._thaw_failed,
    "vm.fence": VmLane._fence,
    "vm.gone": VmLane._gone,
    "vm.ended": VmLane._gone,
    "lock.lost": VmLane._lost,
}
