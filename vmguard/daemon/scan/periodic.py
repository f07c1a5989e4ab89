"""Decide how often each VM is scanned: often enough for the promise, and otherwise at a measured, bounded cost.

A file that nobody announced has to be pinned within two seconds of its opening. It must have been open in the same way
for 0.4 s of these (scan/settling_files.py); the lock itself and a busy host take the rest. So every VM is scanned at
least once in 1.4 s. Where that is cheap it is scanned once a second; where even 1.4 s would take a good part of a
processor, the promise is given up, and a warning says so.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.scan")

#: longest time between two scans of one VM that keeps the promise
MAX_INTERVAL_S = 1.4
#: share of one processor up to which the scans are as frequent as they can be
CHEAP_SHARE = 0.005
#: share of one processor beyond which the promise is given up
MAX_SHARE = 0.1
#: slices of a pass, so that the loop is never kept long
_SLICES = 5
#: ratio by which the interval must grow before it is warned of again
_WARNING_RATIO = 1.5


def pace(cost: float, shortest: float) -> float:
    """Return the seconds for one pass over all VMs, given its cost in seconds of CPU time."""
    return max(shortest, min(cost / CHEAP_SHARE, MAX_INTERVAL_S), cost / MAX_SHARE)


class PeriodicScan:
    """The scans of one VM after the other, for ever."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        scan: Callable[[GuardedVm, float], None],
        shortest_s: float,
        cpu_time: Callable[[], float] = time.thread_time,
    ) -> None:
        """``scan`` gets a VM and the loop's time. A pass over all VMs never takes less than ``shortest_s`` seconds.

        ``cpu_time``: the seconds of CPU time that this thread has used.
        """
        self._loop = loop
        self._registry = registry
        self._scan = scan
        self._shortest_s = shortest_s
        self._cpu_time = cpu_time
        self._left: list[GuardedVm] = []
        self._share = 1
        #: CPU seconds that this pass has cost so far
        self._cost = 0.0
        self.interval = shortest_s
        self._told = MAX_INTERVAL_S

    def start(self) -> None:
        """Scan one slice of the VMs, and plan the next slice."""
        if not self._left:
            self._begin()
        now, before = self._loop.now(), self._cpu_time()
        try:
            for _ in range(min(self._share, len(self._left))):
                self._scan(self._left.pop(), now)
        finally:  # whatever fails for one VM, the others are scanned
            self._cost += self._cpu_time() - before
            self._loop.call_at(now + self.interval / _SLICES, self.start)

    def _begin(self) -> None:
        self.interval = pace(self._cost, self._shortest_s)
        if self.interval > _WARNING_RATIO * self._told:
            self._told = self.interval
            log.warning(
                "to see what %d VMs have open takes %.0f ms of CPU: what nobody announces is seen after up to %.1f s",
                len(self._registry),
                1000 * self._cost,
                self.interval,
            )
        self._cost = 0.0
        self._left = list(self._registry)
        self._share = math.ceil(len(self._left) / _SLICES)
