"""What the lines about a daemon as a whole say: its beginnings, maintenance, sleep, refused starts."""

from __future__ import annotations

from vmguard.core.pictures.bars import Bar, Kind, Lane, Mark, Place, Sign
from vmguard.core.pictures.entry import Entry


class HostLane:
    """Takes the lines of one host that are about no mount and no VM."""

    def __init__(self) -> None:
        self._bars: list[Bar] = []
        self._marks: list[Mark] = []
        #: since when it is disarmed, and the line that says so
        self._disarmed: Entry | None = None

    def take(self, entry: Entry) -> None:
        """Take the next such line."""
        now = entry.boottime
        if entry.code == "watch.disarmed":
            self._end_maintenance(now, entry.text)
            self._disarmed = entry
        elif entry.code == "watch.armed" and self._disarmed is not None:
            self._end_maintenance(now, entry.text)
        elif entry.code == "watch.woke-up":
            gap = entry.number("gap")
            if gap is not None and 0 < gap <= now:
                self._bars.append(Bar(Kind.ASLEEP, now - gap, now, entry.text, entry.text))
            self._marks.append(Mark(Sign.NOTE, now, entry.text))
        else:
            sign = Sign.ALARM if entry.level == "error" else Sign.NOTE
            self._marks.append(Mark(sign, now, entry.text))

    def began(self, entry: Entry, last: float | None) -> None:
        """A daemon begins to watch; ``last``: the last line of the one before it, None for the first."""
        if last is None:
            self._marks.append(Mark(Sign.BEGAN, entry.boottime, f"a daemon watches: {entry.text}"))
            return
        text = "a daemon ended between these two lines, and another one began: nothing is told about this time"
        if self._disarmed is not None:
            begin = self._disarmed
            self._disarmed = None
            self._bars.append(Bar(Kind.DISARMED, begin.boottime, last, begin.text, end_known=False))
        self._bars.append(Bar(Kind.UNKNOWN, last, entry.boottime, text, entry.text, begin_known=False))
        self._marks.append(Mark(Sign.BEGAN, entry.boottime, f"another daemon watches: {entry.text}"))

    def lane(self, host: str, until: float) -> Lane:
        """Return what was found; what is open is so until the last line."""
        if self._disarmed is not None:
            begin = self._disarmed
            self._bars.append(Bar(Kind.DISARMED, begin.boottime, until, begin.text, end_known=False))
            self._disarmed = None
        bars = tuple(sorted(self._bars, key=lambda bar: bar.begin))
        return Lane(host, Place.HOST, "", host, bars, tuple(self._marks))

    def _end_maintenance(self, now: float, text: str) -> None:
        begin, self._disarmed = self._disarmed, None
        if begin is not None:
            self._bars.append(Bar(Kind.DISARMED, begin.boottime, now, begin.text, text))
