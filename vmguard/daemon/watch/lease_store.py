"""Persist when each mount's lease was last confirmed, for a later daemon.

Without it a daemon restarted in an outage would have to guess the age of the lease. Too low a guess lets VMs run when
another host may have their locks; too high a guess freezes them at each restart. The persisted time is at most a second
older than the true one: a freeze may come that much too early, never too late.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from vmguard.adapters.linux import clock, host_identity, statefile

log = logging.getLogger("vmguard.watch")

FILE = "leases.json"
#: within which a new daemon has found the locks of an earlier one
_TAKE_OVER_S = 60.0


class LeaseStore:
    """The file. Its times are seconds of CLOCK_BOOTTIME, so they are valid in one boot only."""

    def __init__(self, run_dir: str, now: Callable[[], float] = clock.boottime) -> None:
        self._now = now
        self._path = os.path.join(run_dir, FILE)
        self._boot = host_identity.boot_id()
        self._kept: dict[str, float] | None = None
        self._before = self._read()
        self._until = self._now() + _TAKE_OVER_S

    def before(self, point: str, device: int) -> float | None:
        """Return when an earlier daemon last saw the lease confirmed; None when it did not know this very mount."""
        self._forget()
        return self._before.pop(_name(point, device), None)

    def keep(self, confirmed: Mapping[tuple[str, int], float]) -> None:
        """Persist the times; on a full disk the older ones stay, which is only stricter."""
        self._forget()
        now = {_name(point, device): round(second, 3) for (point, device), second in confirmed.items()}
        now = {**self._before, **now}  # if we are killed before these locks are found, a later daemon still needs it
        if now == self._kept:
            return
        try:
            # Not synced: it is valid in this boot only, and a rename is atomic for readers anyway.
            statefile.write(self._path, {"boot": self._boot, "confirmed": now}, sync=False)
        except OSError as problem:
            log.debug("the age of the leases is not written down: %s", problem)
            return
        self._kept = now

    def _forget(self) -> None:
        """Drop the earlier times once all its locks are found: a mount that comes into use later starts afresh."""
        if self._now() >= self._until:
            self._before = {}

    def _read(self) -> dict[str, float]:
        value = statefile.read(self._path) or {}
        found = value.get("confirmed")
        if value.get("boot") != self._boot or not isinstance(found, dict):
            return {}
        return {str(name): float(second) for name, second in found.items() if isinstance(second, int | float)}


def _name(point: str, device: int) -> str:
    return f"{device:#x} {point}"
