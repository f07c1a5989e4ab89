"""``vmguard disarm`` and ``vmguard arm``: suspend all action on VMs for a while, on a person's recorded order.

The mode is persisted, so it survives a restart of the daemon. It ends by itself at its deadline, and with the boot.
Both orders are reported, with their author; a reason is reported with ``disarm``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from vmguard.adapters.linux import clock, host_identity, statefile
from vmguard.core.watchdog.events import Arm, Disarm, Event

log = logging.getLogger("vmguard.watch")

FILE = "disarmed.json"
#: longest duration: people forget what lasts longer
MAX_DISARM_S = 7 * 86400.0


class MaintenanceMode:
    """The switch that keeps the watchdog from acting."""

    def __init__(self, run_dir: str, feed: Callable[[Event], None], now: Callable[[], float] = clock.boottime) -> None:
        self._now = now
        self._path = os.path.join(run_dir, FILE)
        self._feed = feed
        self._state: dict[str, Any] = {}

    def disarm(self, seconds: float, reason: str, by: str) -> bool:
        """Disarm the watchdog. Return whether that survives a restart of the daemon: not if /run is full."""
        now = self._now()
        self._state = {
            "until": now + seconds,
            "boot": host_identity.boot_id(),
            "since": clock.wall(),
            "reason": reason,
            "by": by,
        }
        written = True
        try:
            statefile.write(self._path, self._state)
        except OSError as problem:
            log.error("disarmed, but a restart of the daemon will arm it again: %s", problem)
            written = False
        self._feed(Disarm(now, now + seconds, f"{reason} (by {by})"))
        return written

    def arm(self, by: str) -> None:
        """End the mode at once."""
        self._state = {}
        statefile.remove(self._path)
        self._feed(Arm(self._now(), f"by {by}"))

    def resume(self) -> None:
        """Restore the mode that was in force before a restart of the daemon."""
        state = statefile.read(self._path) or {}
        now = self._now()
        try:
            until = float(state["until"])
            reason, by = str(state["reason"]), str(state["by"])
        except (KeyError, TypeError, ValueError):
            return
        if state.get("boot") != host_identity.boot_id() or not now < until <= now + MAX_DISARM_S:
            statefile.remove(self._path)
            return
        self._state = state
        self._feed(Disarm(now, until, f"{reason} (by {by}, since {state.get('since', '?')})"))

    def as_json(self) -> dict[str, Any] | None:
        """Return the seconds left, since when, why and by whose order; None while the watchdog is armed."""
        left = float(self._state.get("until", 0.0)) - self._now()
        if left <= 0:
            return None
        return {"seconds": round(left, 1), **{name: self._state[name] for name in ("since", "reason", "by")}}
