"""Scan a VM several times in the second after an event, at little cost.

QEMU opens a file anew before it closes the old descriptor, and locks it some milliseconds later, without an event. The
first and the last scan are full; the ones in between only check whether anything has changed. Another event restarts
the second: at the switch of a live migration QEMU opens each disk several times within a few milliseconds, and the
processor belongs to the guest.

A cheap scan misses nothing that happens in between: a descriptor's number is reserved before its file is opened, and
it is shown only after its event was sent (do_sys_openat2, fs/open.c). So what a full scan at the event does not see yet
changes the set of numbers afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.loop import Loop, Timer

#: times of the scans after the event
SCHEDULE_S = (0.0, 0.005, 0.015, 0.04, 0.1, 0.25, 0.5, 1.0)

Scan = Callable[[GuardedVm], object]


class ScanBursts:
    """The bursts of scans, one at a time for each VM."""

    def __init__(self, loop: Loop, full: Scan, cheap: Scan) -> None:
        self._loop = loop
        self._full = full
        self._cheap = cheap
        self._timers: dict[str, list[Timer]] = {}

    def begin(self, vm: GuardedVm) -> None:
        """Start a burst for an event that has just happened; it replaces one under way."""
        self.forget(vm)
        scans = [self._full, *[self._cheap] * (len(SCHEDULE_S) - 2), self._full]
        self._timers[vm.id] = [
            self._loop.call_in(seconds, functools.partial(scan, vm))
            for seconds, scan in zip(SCHEDULE_S, scans, strict=True)
        ]

    def forget(self, vm: GuardedVm) -> None:
        """Cancel the burst of a VM."""
        for timer in self._timers.pop(vm.id, ()):
            timer.cancel()
