"""States of a mount and of a lock, as tables. lease.py explains them and moves between them."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from vmguard.core.watchdog.events import Counters, Level, LockInfo, Verdict

#: new sessions within so many leases that indicate a stolen client id (a revoke causes only one)
STOLEN_SESSIONS, STOLEN_LEASES = 3, 3


class Phase(enum.StrEnum):
    IDLE = "idle"
    HEALTHY = "healthy"
    LATE = "late"
    AT_RISK = "at-risk"
    EXPIRED = "expired"
    RECOVERING = "recovering"


ALIVE = frozenset({Phase.HEALTHY, Phase.LATE})
#: nobody may run there
DANGER = frozenset({Phase.AT_RISK, Phase.EXPIRED})
#: the server has not answered for longer than it should have
SILENT = DANGER | {Phase.LATE}

MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: ALIVE | DANGER,
    Phase.HEALTHY: frozenset({Phase.IDLE, Phase.LATE, Phase.AT_RISK, Phase.EXPIRED}),
    Phase.LATE: frozenset({Phase.IDLE, Phase.HEALTHY, Phase.AT_RISK, Phase.EXPIRED}),
    Phase.AT_RISK: frozenset({Phase.IDLE, Phase.EXPIRED, Phase.RECOVERING}),
    Phase.EXPIRED: frozenset({Phase.IDLE, Phase.RECOVERING}),
    Phase.RECOVERING: frozenset({Phase.IDLE, Phase.HEALTHY, Phase.AT_RISK, Phase.EXPIRED}),
}

LEVELS = {Phase.LATE: Level.WARNING, Phase.AT_RISK: Level.WARNING, Phase.EXPIRED: Level.ERROR}


@dataclass
class Lock:
    """One lock and what is known about it."""

    info: LockInfo
    #: rises with the description that carries it: answers to older probes say nothing about this one
    serial: int
    #: when the probe was sent whose answer proved it kept
    kept_at: float = -math.inf
    lost: bool = False
    evidence: str = ""
    #: time of the latest event that may have lost it; None if none
    doubt: float | None = None
    #: time of the first such event since it was last proven kept
    since: float = 0.0
    #: in doubt for longer than a running VM may be
    overdue: bool = False
    #: when the first EIO came
    suspect: float | None = None
    #: it was reported that it cannot be probed
    blind: bool = False
    last_ask: float = -math.inf
    #: time of the latest event after which another host may have had the lock, although the server gives it back to
    #: us: until the owner record was read after it, the lock is in doubt. None if there was none
    token_due: float | None = None

    @property
    def verdict(self) -> Verdict:
        if self.lost:
            return Verdict.LOST
        return Verdict.KEPT if self.doubt is None else Verdict.UNKNOWN

    @property
    def alarming(self) -> bool:
        """Whether its VM must stand still, whatever the age of the lease."""
        return self.doubt is not None and (self.overdue or self.suspect is not None)


class Sessions:
    """Session counters of a mount, compared with those of the previous look."""

    def __init__(self) -> None:
        self._last: Counters | None = None
        self._new: list[float] = []
        #: when a new connection was last seen
        self._connected = -math.inf
        #: the server was silent since the last look
        self.silent = False

    @property
    def stolen(self) -> bool:
        return len(self._new) >= STOLEN_SESSIONS

    def compare(self, now: Counters, when: float, lease: float, still_silent: bool) -> tuple[bool, bool]:
        """Return whether the client made a new session, and whether it checked its state. The first call stores.

        When the server was silent since the last call, or within a lease of a new connection, a new session is that of
        its reboot, and no sign of theft: a thief leaves the connection alone.
        """
        last, self._last = self._last or now, now
        sessions = now.exchange_id > last.exchange_id or now.create_session > last.create_session
        if now.connects > last.connects:
            self._connected = when
        self._new = [earlier for earlier in self._new if earlier > when - STOLEN_LEASES * lease]
        if sessions and not self.silent and when >= self._connected + lease:
            self._new.append(when)
        self.silent = still_silent
        return sessions, now.reclaim_complete > last.reclaim_complete or now.test_stateid > last.test_stateid
