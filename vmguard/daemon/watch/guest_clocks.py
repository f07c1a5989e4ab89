"""Set the clocks of guests that were frozen, where the admin wants it: one after the other, never waited for."""

from __future__ import annotations

import functools
import logging
from collections import deque

from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.watch")

#: shortest freeze after which a guest's clock is set
_MIN_FROZEN_S = 1.0
#: time for the guest's agent to set it
_TIMEOUT_S = 30.0


class GuestClocks:
    """The VMs that are frozen, since when, and those whose clocks are still to be set."""

    def __init__(self, loop: Loop, registry: Registry) -> None:
        self._loop = loop
        self._registry = registry
        self._still: dict[str, float] = {}
        self._waiting: deque[GuardedVm] = deque()
        self._busy = False

    def frozen(self, vm: GuardedVm) -> None:
        """Note when a VM was frozen; a repeated freeze changes nothing."""
        self._still.setdefault(vm.id, self._loop.now())

    def thawed(self, vm: GuardedVm, wanted: bool) -> None:
        """Queue a thawed VM. If this daemon did not see the freeze (restart), assume that it was long enough."""
        since = self._still.pop(vm.id, 0.0)
        if wanted and self._loop.now() - since >= _MIN_FROZEN_S:
            self._waiting.append(vm)
            self._next()

    def _next(self) -> None:
        while self._waiting and not self._busy:
            vm = self._waiting.popleft()
            if self._registry.get(vm.id) is not vm or vm.frozen:
                continue  # gone, or frozen again: the next thaw sets it
            self._busy = True
            try:
                done = functools.partial(self._set, vm)
                subprocesses.start(self._loop, "set_guest_clock", done, [vm.hypervisor, vm.uuid], seconds=_TIMEOUT_S)
            except OSError as problem:
                self._busy = False
                log.warning("%s: its clock cannot be set: %s", vm.title, problem)

    def _set(self, vm: GuardedVm, status: int) -> None:
        self._busy = False
        if status:
            log.warning("%s: its clock is late: it could not be set (status %d; does its agent run?)", vm.title, status)
        else:
            log.info("%s: its clock is set", vm.title)
        self._next()
