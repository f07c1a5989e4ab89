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
import time
from collections.abc import Callable

from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.loop import Loop, Timer

#: times of the scans after the event
SCHEDULE_S = (0.0, 0.005, 0.015, 0.04, 0.1, 0.25, 0.5, 1.0)

#: between two bursts for events: what is opened meanwhile the scans of the burst under way find, too
_REST_S = 0.02
#: the same, in the CPU time of a full scan, so that one VM never takes more than a part of the processor
_REST_COSTS = 20

Scan = Callable[[GuardedVm], object]


class ScanBursts:
    """The bursts of scans, one at a time for each VM."""

    def __init__(self, loop: Loop, full: Scan, cheap: Scan, cpu_time: Callable[[], float] = time.thread_time) -> None:
        self._loop = loop
        self._full = full
        self._cheap = cheap
        self._cpu_time = cpu_time
        self._timers: dict[str, list[Timer]] = {}
        #: by VM: when the next event begins a burst at once, and what a full scan costs
        self._rests: dict[str, float] = {}
        self._costs: dict[str, float] = {}
        #: an event that came in a rest
        self._late: dict[str, Timer] = {}

    def event(self, vm: GuardedVm) -> None:
        """Begin a burst because a file of the VM was opened; soon, if one has just begun.

        Whoever may open the file, in the guest's QEMU or as a user who may read it, can do so without pause.
        """
        now = self._loop.now()
        rest = self._rests.get(vm.id, 0.0)
        if now >= rest:
            self._rests[vm.id] = now + max(_REST_S, _REST_COSTS * self._costs.get(vm.id, 0.0))
            self.begin(vm)
        elif vm.id not in self._late:
            self._late[vm.id] = self._loop.call_in(rest - now, functools.partial(self._now, vm))

    def _now(self, vm: GuardedVm) -> None:
        self._late.pop(vm.id, None)
        self.event(vm)

    def _scan_fully(self, vm: GuardedVm) -> None:
        before = self._cpu_time()
        self._full(vm)
        self._costs[vm.id] = self._cpu_time() - before

    def begin(self, vm: GuardedVm) -> None:
        """Start a burst for an event that has just happened; it replaces one under way."""
        self.forget(vm)
        scans = [self._scan_fully, *[self._cheap] * (len(SCHEDULE_S) - 2), self._scan_fully]
        self._timers[vm.id] = [
            self._loop.call_in(seconds, functools.partial(scan, vm))
            for seconds, scan in zip(SCHEDULE_S, scans, strict=True)
        ]

    def end(self, vm: GuardedVm) -> None:
        """Cancel all that is to come for a VM that is gone."""
        self.forget(vm)
        late = self._late.pop(vm.id, None)
        if late is not None:
            late.cancel()
        self._rests.pop(vm.id, None)
        self._costs.pop(vm.id, None)

    def forget(self, vm: GuardedVm) -> None:
        """Cancel the burst of a VM."""
        for timer in self._timers.pop(vm.id, ()):
            timer.cancel()
