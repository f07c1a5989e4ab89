"""The wall clock of a host, as its history shows it.

Each line has two times of one moment: CLOCK_BOOTTIME to the millisecond, and the wall clock in whole seconds, cut off.
So a line says that the wall clock was ahead of the boot clock by ``at - boottime`` or up to a second more; all lines
together say it closer. A line that contradicts those before it tells of a step: somebody, or NTP, has set the clock.
Durations are never computed from the wall clock; it only places a history on paper, and beside those of other hosts.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from vmguard.core.pictures.entry import Entry

_ISO = "%Y-%m-%dT%H:%M:%SZ"
#: whole seconds are cut off, never rounded
_CUT_S = 1.0
#: what two readings in a row may be apart, and what a slewed clock gains in a second at most (adjtime: 500 ppm)
_READING_S, _SLEW = 0.3, 5e-4


@dataclass(frozen=True)
class Step:
    """The clock was set, between two lines of the history."""

    #: of the last line before it and the first one behind it, CLOCK_BOOTTIME seconds
    after: float
    before: float
    #: seconds, forward if positive
    by: float


@dataclass(frozen=True)
class HostClock:
    """Where a host's boot clock stands in time, by its wall clock behind its last step."""

    #: seconds since 1970 at boot
    shift: float
    #: seconds by which ``shift`` may be wrong either way
    doubt: float
    steps: tuple[Step, ...] = ()


def unix(at: str) -> float | None:
    """Return a time of the history (UTC, ISO) in seconds since 1970; None for what is none."""
    try:
        return datetime.datetime.strptime(at, _ISO).replace(tzinfo=datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def host_clock(entries: Iterable[Entry]) -> HostClock | None:
    """Return the clock of a history; None when no line of it has a time."""
    low = high = last = 0.0
    steps: list[Step] = []
    known = False
    for entry in entries:
        wall = unix(entry.at)
        if wall is None:
            continue
        offset = wall - entry.boottime
        slewed = _SLEW * max(entry.boottime - last, 0.0)
        low, high = low - slewed, high + slewed
        if not known or offset > high + _READING_S or offset + _CUT_S < low - _READING_S:
            if known:
                steps.append(Step(last, entry.boottime, offset + _CUT_S / 2 - (low + high) / 2))
            low, high = offset, offset + _CUT_S
        else:
            low, high = _closer((low, high), (offset, offset + _CUT_S))
        known, last = True, entry.boottime
    return HostClock((low + high) / 2, (high - low) / 2, tuple(steps)) if known else None


def _closer(known: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    """Return what both ranges allow; the new one where the clock was slewed out of the old one."""
    low, high = max(known[0], new[0]), min(known[1], new[1])
    return (low, high) if low <= high else new
