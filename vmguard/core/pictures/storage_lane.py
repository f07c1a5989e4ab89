"""What the lines about one mount say: when its server was silent, how its lease drained, when it recovered.

A line tells of a move (``healthy => late``) and of the age of the newest answer, so when the last answered request was
sent. A mount without locks is idle, which is not reported: the last bar before that has an end that is not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vmguard.core.pictures.bars import Bar, Draining, Kind, Lane, Mark, Place, Sign
from vmguard.core.pictures.entry import Entry
from vmguard.core.watchdog.states import SILENT, Phase

_MOVED = re.compile(r"(?<!\S)([a-z-]+) => ([a-z-]+): ")
_LEASE = re.compile(r"lease ([\d.]{1,9}) s; freeze|lease time is ([\d.]{1,9}) s now")
KINDS: dict[Phase, Kind] = {
    Phase.LATE: Kind.LATE,
    Phase.AT_RISK: Kind.AT_RISK,
    Phase.EXPIRED: Kind.EXPIRED,
    Phase.RECOVERING: Kind.RECOVERING,
}
_SIGNS = {"new-session": Sign.SESSION, "identity-stolen": Sign.ALARM, "timing": Sign.ALARM}
#: ages are told in tenths of a second
_SAME_S = 0.2


@dataclass(frozen=True)
class _Open:
    kind: Kind
    begin: float
    text: str


class StorageLane:
    """Takes the lines of one mount of one host in their order."""

    def __init__(self, mount: str) -> None:
        self.mount = mount
        self._bars: list[Bar] = []
        self._marks: list[Mark] = []
        self._leases: list[Draining] = []
        self._lease: float | None = None
        self._open: _Open | None = None
        #: since when a lease drains
        self._drains: float | None = None
        #: since when the phase is unknown, although there was one
        self._blind: float | None = None

    def take(self, entry: Entry) -> None:
        """Take the next line about the mount."""
        what = entry.code.partition(".")[2]
        if what in frozenset(Phase):
            self._move(Phase(what), entry)
        else:
            self._remember_lease(entry.text)
            self._marks.append(Mark(_SIGNS.get(what, Sign.NOTE), entry.boottime, entry.text))

    def blind(self, since: float) -> None:
        """A daemon ended, some time after ``since``: what was, may have ended then."""
        if self._open is not None or self._drains is not None:
            self._blind = since
        self._close(since, known=False)

    def maybe_idle(self, second: float) -> None:
        """A VM is gone: if it was the last one here, the mount is idle, and nobody says when it is not any more."""
        if self._open is not None:
            self._close(second, known=False)

    def lane(self, host: str, until: float) -> Lane:
        """Return what was found; what is open is so until the last line."""
        if self._open is not None:
            self._close(until, known=False)
        bars = tuple(sorted(self._bars, key=lambda bar: bar.begin))
        return Lane(host, Place.STORAGE, self.mount, self.mount, bars, tuple(self._marks), tuple(self._leases))

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _remember_lease(self, text: str) -> None:
        found = _LEASE.search(text)
        if found is None:
            return
        try:
            lease = float(found[1] or found[2])
        except ValueError:
            return
        self._lease = lease if lease > 0 else None

    def _move(self, new: Phase, entry: Entry) -> None:
        moved = _MOVED.search(entry.text)
        old = Phase(moved[1]) if moved is not None and moved[1] in frozenset(Phase) else None
        now = entry.boottime
        self._settle(old, now, entry.text)
        if new in SILENT:
            self._drain(entry, old)
        elif self._drains is not None:
            self._end_draining(now)
        kind = KINDS.get(new)
        self._open = None if kind is None else _Open(kind, now, entry.text)
        self._blind = None

    def _settle(self, old: Phase | None, now: float, text: str) -> None:
        """End the phase that a line leaves, or say that nobody knows when it began."""
        kind = KINDS.get(old) if old is not None else None
        was, last = self._open, self._bars[-1] if self._bars else None
        if was is not None:
            self._open = None
            if was.kind is kind or old is None:
                self._bars.append(Bar(was.kind, was.begin, now, was.text, text))
            else:
                told = f"{was.text}; the next line says that it was {old} before: what lies between is not told"
                self._bars.append(Bar(Kind.UNKNOWN, was.begin, now, told, text))
        elif kind is not None and self._blind is None and last is not None and last.kind is kind and not last.end_known:
            self._bars[-1] = replace(last, end=now, end_known=True, ended_by=text)
        elif kind is not None or self._blind is not None:
            begin = self._blind if self._blind is not None else now
            told = f"it was {old} before this line; since when is not told"
            self._bars.append(Bar(Kind.UNKNOWN, begin, now, told, text, begin_known=False))

    def _drain(self, entry: Entry, old: Phase | None) -> None:
        age = entry.number("age")
        if age is None or not 0 <= age <= entry.boottime:
            return
        confirmed = entry.boottime - age
        if self._drains is not None and confirmed > self._drains + _SAME_S:
            self._end_draining(confirmed)
        if self._drains is not None:
            return
        self._drains = confirmed
        begin = max([confirmed, *(bar.end for bar in self._bars[-1:])])
        if begin < entry.boottime and old in (None, Phase.HEALTHY):
            told = f"no request that was sent later was answered; {entry.text}"
            self._bars.append(Bar(Kind.SILENT, begin, entry.boottime, told, entry.text))

    def _end_draining(self, second: float) -> None:
        begin, self._drains = self._drains, None
        if begin is not None and self._lease is not None and second > begin:
            self._leases.append(Draining(begin, min(second, begin + self._lease), self._lease))

    def _close(self, second: float, known: bool) -> None:
        was, self._open = self._open, None
        if was is not None:
            self._bars.append(Bar(was.kind, was.begin, max(second, was.begin), was.text, end_known=known))
        self._end_draining(second)
