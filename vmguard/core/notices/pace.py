"""When the next attempt to reach a target may be made. Seconds of CLOCK_BOOTTIME; a boot later all is due at once.

Two reasons to wait: it failed (longer and longer), and it was told much lately. What waits is put into one message, so
nothing is lost by waiting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: beyond a target's own timeout, until the process that sends is ended
GRACE_S = 2.0
#: after the first failure, and the longest
_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 300.0
#: messages that may follow each other at once, and how long it takes until there may be one more
BURST = 6.0
REFILL_S = 60.0


@dataclass(frozen=True)
class Pace:
    """How it stands with one target. ``spare``: messages that may be sent at once, as of ``as_of``."""

    failures: int = 0
    retry_at: float = 0.0
    spare: float = BURST
    as_of: float = 0.0

    def due(self, now: float) -> float:
        """Return when the next attempt may be made: ``now``, or later."""
        spare = self._spare(now)
        free = now if spare >= 1 else now + (1 - spare) * REFILL_S
        return max(now, self.retry_at, free)

    def tried(self, now: float) -> Pace:
        """Return how it stands when an attempt begins: as if it fails, so that one that is killed counts, too."""
        wait = min(_FIRST_RETRY_S * 2.0 ** min(self.failures, 20), _LAST_RETRY_S)
        return replace(self, failures=self.failures + 1, retry_at=now + wait)

    def delivered(self, now: float) -> Pace:
        """Return how it stands behind a message that was taken."""
        return Pace(0, 0.0, self._spare(now) - 1, now)

    def after_reboot(self) -> Pace:
        """Return how it stands in another boot, whose clock says nothing about the times of this one."""
        return Pace(failures=self.failures)

    def _spare(self, now: float) -> float:
        return min(BURST, self.spare + max(0.0, now - self.as_of) / REFILL_S)
