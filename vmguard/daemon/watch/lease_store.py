"""When each mount's lease was last confirmed, kept for the daemon that comes after this one.

Without it a daemon that is restarted in the middle of an outage would have to guess how old the lease is. A guess that
is too kind lets VMs run when another host may have their locks; one that is too strict freezes them at each restart.
What is kept is at most a second older than the truth: a freeze may come that much too early, never too late.
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
    """The file. Times are seconds of CLOCK_BOOTTIME, so they count in one boot only."""

    def __init__(self, run_dir: str, now: Callable[[], float] = clock.boottime) -> None:
        self._now = now
        self._path = os.path.join(run_dir, FILE)
        self._boot = host_identity.boot_id()
        self._kept: dict[str, float] | None = None
        self._before = self._read()
        self._until = self._now() + _TAKE_OVER_S

    def before(self, point: str, device: int) -> float | None:
        """What a daemon before this one knew of a mount; None when it knew nothing of this very mount."""
        self._forget()
        return self._before.pop(_name(point, device), None)

    def keep(self, confirmed: Mapping[tuple[str, int], float]) -> None:
        """Write down what is known by now; a full disk leaves what is older, and that is only stricter."""
        self._forget()
        now = {_name(point, device): round(second, 3) for (point, device), second in confirmed.items()}
        now = {**self._before, **now}  # killed again before its locks are found, the next one must know it still
        if now == self._kept:
            return
        try:
            # Not synced: it counts in this boot only, and a rename is whole for every reader without.
            statefile.write(self._path, {"boot": self._boot, "confirmed": now}, sync=False)
        except OSError as problem:
            log.debug("the age of the leases is not written down: %s", problem)
            return
        self._kept = now

    def _forget(self) -> None:
        """A mount whose locks ended with the daemon before this one, and that comes into use later, begins afresh."""
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
