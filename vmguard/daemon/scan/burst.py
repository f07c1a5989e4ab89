"""After something happened to a VM it is looked at again and again for a second, at little cost.

QEMU opens a file anew before it closes the old descriptor, locks it some milliseconds later, and tells nobody of it.
The first look and the last one are full ones, those between look only whether anything has changed since. When more
happens meanwhile the second begins anew: at the switch of a live migration QEMU opens each disk several times within a
few milliseconds, and the processor is the guest's.

A cheap look misses nothing that comes between: a descriptor's number is taken before its file is opened, and is shown
only when its event has been sent (do_sys_openat2, fs/open.c). So what a full look at the event does not see yet changes
the set of numbers afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.loop import Loop, Timer

#: seconds after the event
SCHEDULE_S = (0.0, 0.005, 0.015, 0.04, 0.1, 0.25, 0.5, 1.0)

Look = Callable[[GuardedVm], object]


class ScanBursts:
    """One burst of looks at a time for each VM."""

    def __init__(self, loop: Loop, full: Look, cheap: Look) -> None:
        self._loop = loop
        self._full = full
        self._cheap = cheap
        self._timers: dict[str, list[Timer]] = {}

    def begin(self, vm: GuardedVm) -> None:
        """It has happened now."""
        self.forget(vm)
        looks = [self._full, *[self._cheap] * (len(SCHEDULE_S) - 2), self._full]
        self._timers[vm.id] = [
            self._loop.call_in(seconds, functools.partial(look, vm))
            for seconds, look in zip(SCHEDULE_S, looks, strict=True)
        ]

    def forget(self, vm: GuardedVm) -> None:
        for timer in self._timers.pop(vm.id, ()):
            timer.cancel()
