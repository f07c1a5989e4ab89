"""Several hosts' lanes side by side, cut into chapters: one for each incident, whoever saw it.

Each host's history is placed in time by its own clock, as that was behind its last step. Nothing is moved to make two
histories fit; what an admin knows of a clock is added as ``offset``, and is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vmguard.core.pictures.bars import Kind, Lane, Place
from vmguard.core.pictures.entry import LATE, LOST, Entry, incidents, kind_of, of_vm
from vmguard.core.pictures.lanes import HostPicture, host_picture

#: two hosts' windows this near to each other are one incident: a server is silent for each of them in another second
_NEAR_S = 30.0
#: of a chapter with a single line
_LEAST_S = 1.0


@dataclass(frozen=True)
class Source:
    """One host's history, as it was read."""

    host: str
    entries: Sequence[Entry]
    #: CLOCK_BOOTTIME up to which no line is lacking at its end; None: its last line
    until: float | None = None
    #: seconds that an admin wants to be added to its clock
    offset: float = 0.0
    #: what its own kernel says about its clock, for people
    clock_note: str = ""
    #: it begins with the boot: its older half was never dropped
    whole: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a history, placed in time."""

    host: str
    #: seconds since 1970 by its host's clock
    second: float
    entry: Entry


@dataclass(frozen=True)
class Outage:
    """What one host's incident was, and since when."""

    second: float
    host: str
    words: str


@dataclass(frozen=True)
class Chapter:
    """One incident: what is drawn, and the lines below it."""

    begin: float
    end: float
    #: what each host's incident was, in their order
    kinds: tuple[Outage, ...]
    lanes: tuple[Lane, ...]
    lines: tuple[Line, ...]

    @property
    def origin(self) -> float:
        """Where its seconds are counted from: its first line."""
        return self.lines[0].second if self.lines else self.begin


@dataclass(frozen=True)
class Album:
    """All that a page shows."""

    chapters: tuple[Chapter, ...]
    #: the hosts in the order in which they were given
    hosts: tuple[HostPicture, ...]
    sources: tuple[Source, ...]


@dataclass
class _Window:
    begin: float
    end: float
    hosts: set[str]
    lines: list[Line]
    kinds: list[Outage]


def album(sources: Sequence[Source], vm: str = "", since: float | None = None, last: int | None = None) -> Album:
    """Put histories together.

    ``vm``: only incidents of this VM, by name, uuid or id. ``since``: only what went on after it, in seconds since
    1970. ``last``: how many chapters at most, the newest ones.
    """
    hosts = [host_picture(source.host, source.entries, source.until, source.whole) for source in sources]
    windows: list[_Window] = []
    lanes: list[Lane] = []
    for source, host in zip(sources, hosts, strict=True):
        shift = shift_of(host, source)
        moved = [lane.moved(shift, source.host) for lane in host.lanes]
        lanes += _wanted(moved, vm)
        windows += _windows(source.host, host.entries, shift, moved, vm)
    joined = [window for window in _joined(windows) if since is None or window.end >= since]
    kept = joined[-max(last, 1) :] if last is not None else joined
    return Album(tuple(_chapter(window, lanes) for window in kept), tuple(hosts), tuple(sources))


def shift_of(host: HostPicture, source: Source) -> float:
    """Return what leads from a host's boot clock to the picture's seconds since 1970."""
    return (host.clock.shift if host.clock is not None else 0.0) + source.offset


def _wanted(lanes: Iterable[Lane], vm: str) -> list[Lane]:
    """Return all lanes, or those of one VM and of its mounts."""
    every = list(lanes)
    if not vm:
        return every
    own = [lane for lane in every if lane.place is Place.VM and vm in lane.also]
    mounts = {mount for lane in own for mount in lane.mounts}
    return [
        lane
        for lane in every
        if lane in own or lane.place is Place.HOST or (lane.place is Place.STORAGE and lane.key in mounts)
    ]


def _windows(host: str, entries: Sequence[Entry], shift: float, lanes: Sequence[Lane], vm: str) -> list[_Window]:
    """Return a window for each incident of a host; it reaches as far as the bars that begin in it."""
    found = []
    for incident in incidents(entries):
        chosen = of_vm(incident, vm)
        if not chosen:
            continue
        lines = [Line(host, entry.boottime + shift, entry) for entry in chosen]
        window = _Window(lines[0].second, lines[-1].second, {host}, lines, _outage(host, lines))
        for lane in _wanted(lanes, vm):
            _reach(window, lane)
        found.append(window)
    return found


def _outage(host: str, lines: Sequence[Line]) -> list[Outage]:
    """Return what an incident was; nothing where that cannot be said."""
    entries = [line.entry for line in lines]
    lost = any(entry.code == LOST and entry.level == "error" for entry in entries)
    words = kind_of(entries) or ("a lock was lost" if lost else "")
    began = next((line.second for line in lines if line.entry.code == LATE), lines[0].second)
    return [Outage(began, host, words)] if words else []


def _reach(window: _Window, lane: Lane) -> None:
    begin, end = window.begin, window.end
    for bar in lane.bars:
        if bar.kind is Kind.UNKNOWN:
            continue  # it may be of any length, and says nothing
        if begin <= bar.begin <= end:
            window.end = max(window.end, bar.end)
        if begin <= bar.end <= end:
            window.begin = min(window.begin, bar.begin)
    for lease in lane.leases:
        if begin <= lease.end <= end:
            window.begin = min(window.begin, lease.begin)


def _joined(windows: Iterable[_Window]) -> list[_Window]:
    """Join windows that overlap; those of different hosts also when they are near."""
    found: list[_Window] = []
    for window in sorted(windows, key=lambda window: window.begin):
        last = found[-1] if found else None
        near = 0.0 if last is not None and window.hosts & last.hosts else _NEAR_S
        if last is None or window.begin > last.end + near:
            found.append(window)
            continue
        last.end = max(last.end, window.end)
        last.hosts |= window.hosts
        last.lines += window.lines
        last.kinds += window.kinds
    return found


def _chapter(window: _Window, lanes: Iterable[Lane]) -> Chapter:
    begin, end = window.begin, max(window.end, window.begin + _LEAST_S)
    shown = [cut for lane in lanes if lane.host in window.hosts and (cut := _cut(lane, begin, end)) is not None]
    return Chapter(
        begin,
        end,
        tuple(sorted(window.kinds, key=lambda outage: outage.second)),
        tuple(shown),
        tuple(sorted(window.lines, key=lambda line: line.second)),
    )


def _cut(lane: Lane, begin: float, end: float) -> Lane | None:
    """Return what a lane has in a chapter; None if that is nothing, and the lane is not the host's own."""
    bars = tuple(bar for bar in lane.bars if bar.end >= begin and bar.begin <= end)
    marks = tuple(mark for mark in lane.marks if begin <= mark.second <= end)
    leases = tuple(lease for lease in lane.leases if lease.end >= begin and lease.begin <= end)
    if not (bars or marks or leases) and lane.place is not Place.HOST:
        return None
    return replace(lane, bars=bars, marks=marks, leases=leases)
