"""The words of a picture: lanes, and on them bars, strips, marks and leases that drain.

All times are seconds on one axis: CLOCK_BOOTTIME of one host, or, once ``moved``, seconds since 1970.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class Kind(enum.StrEnum):
    """What a bar says. The value is its class in SVG."""

    #: no request that was sent from its beginning on was answered; told only afterwards
    SILENT = "silent"
    LATE = "late"
    AT_RISK = "at-risk"
    EXPIRED = "expired"
    RECOVERING = "recovering"
    FROZEN = "frozen"
    FENCING = "fencing"
    #: decided and not done: disarmed, or log-only
    WOULD_FREEZE = "would-freeze"
    WOULD_FENCE = "would-fence"
    #: strips below the others
    CONFLICT = "conflict"
    UNGUARDED = "unguarded"
    REPLACED = "replaced"
    DISARMED = "disarmed"
    ASLEEP = "asleep"
    #: the history does not say
    UNKNOWN = "unknown"


WORDS: dict[Kind, str] = {
    Kind.SILENT: "silent",
    Kind.LATE: "late",
    Kind.AT_RISK: "at risk",
    Kind.EXPIRED: "expired",
    Kind.RECOVERING: "recovering",
    Kind.FROZEN: "frozen",
    Kind.FENCING: "fence",
    Kind.WOULD_FREEZE: "WOULD be frozen",
    Kind.WOULD_FENCE: "WOULD be fenced",
    Kind.CONFLICT: "conflict",
    Kind.UNGUARDED: "unguarded",
    Kind.REPLACED: "disk replaced",
    Kind.DISARMED: "maintenance",
    Kind.ASLEEP: "asleep",
    Kind.UNKNOWN: "unknown",
}
STRIPS = frozenset({Kind.CONFLICT, Kind.UNGUARDED, Kind.REPLACED})


class Sign(enum.StrEnum):
    """What a mark says. The value is its class in SVG."""

    KEPT = "kept"
    LOST = "lost"
    #: the VM is gone
    GONE = "gone"
    #: a daemon began, or began anew
    BEGAN = "began"
    #: the storage or its session had a new beginning
    SESSION = "session"
    ALARM = "alarm"
    NOTE = "note"


@dataclass(frozen=True)
class Bar:
    """An interval. An end that is not known is where the history stops saying it."""

    kind: Kind
    begin: float
    end: float
    #: the line that begins it, for people; the line that ends it, empty if none does
    text: str
    ended_by: str = ""
    begin_known: bool = True
    end_known: bool = True
    #: the steps of a fence: when each was begun, and its name
    steps: tuple[tuple[float, str], ...] = ()

    def moved(self, by: float) -> Bar:
        """Return the same bar on another clock."""
        steps = tuple((second + by, name) for second, name in self.steps)
        return replace(self, begin=self.begin + by, end=self.end + by, steps=steps)


@dataclass(frozen=True)
class Mark:
    """A moment."""

    sign: Sign
    second: float
    text: str

    def moved(self, by: float) -> Mark:
        """Return the same mark on another clock."""
        return replace(self, second=self.second + by)


@dataclass(frozen=True)
class Draining:
    """A lease that nobody renews: whole at ``begin``, when the last answered request was sent, over ``lease`` s later.

    It is drawn until ``end``.
    """

    begin: float
    end: float
    lease: float

    @property
    def left(self) -> float:
        """The part of the lease that is left at the end."""
        return max(0.0, 1.0 - (self.end - self.begin) / self.lease)

    def moved(self, by: float) -> Draining:
        """Return the same on another clock."""
        return replace(self, begin=self.begin + by, end=self.end + by)


class Place(enum.StrEnum):
    """What a lane is about; in the order in which a host's lanes are drawn."""

    HOST = "host"
    STORAGE = "storage"
    VM = "vm"


@dataclass(frozen=True)
class Lane:
    """A host, a mount of it, or a VM of it, over time."""

    host: str
    place: Place
    #: unique among the lanes of its place and host
    key: str
    #: for people
    name: str
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    leases: tuple[Draining, ...] = ()
    #: other words for it: a VM's uuid
    also: frozenset[str] = frozenset()
    #: a VM's mounts, as far as the history names them
    mounts: frozenset[str] = frozenset()

    def moved(self, by: float, host: str) -> Lane:
        """Return the same lane on another clock, as one of that host."""
        return replace(
            self,
            host=host,
            bars=tuple(bar.moved(by) for bar in self.bars),
            marks=tuple(mark.moved(by) for mark in self.marks),
            leases=tuple(lease.moved(by) for lease in self.leases),
        )
