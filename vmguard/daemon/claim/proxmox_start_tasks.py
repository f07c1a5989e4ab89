"""Tell when a start on Proxmox is over, by the process that runs it.

A start that fails after its pre-start succeeded calls no further hook, and a start in progress may take minutes
(storage activation, huge pages, a resume), so no deadline fits both. But the task's worker lives exactly as long as the
start: the claim waits while it lives. If no QEMU appears soon after it has ended, the start is over.
"""

from __future__ import annotations

import functools
import logging
import os

from vmguard.adapters.hypervisor import Hypervisor
from vmguard.core.locks.claim_states import State
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.claim")

#: grace for a QEMU that a killed worker had already forked
_AFTERWARDS_S = 2.0


class StartTasks:
    """The workers of all starts in progress."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def find(self, hypervisor: Hypervisor, hook: int) -> int:
        """Return a pidfd of the worker that runs this hook; -1 if there is none. The hook must be waiting for us."""
        worker = hypervisor.starter_of(hook)
        if not worker:
            return -1
        try:
            pidfd = os.pidfd_open(worker)
        except OSError:
            return -1
        if hypervisor.starter_of(hook) == worker:
            return pidfd
        os.close(pidfd)  # its pid was reused
        return -1

    def follow(self, vm: GuardedVm, worker: int) -> None:
        """Let a confirmed claim wait for its worker. Takes ownership of the worker's pidfd."""
        if vm.state is not State.CLAIMED:
            os.close(worker)
            return
        vm.deadline = None
        self._loop.watch(worker, functools.partial(self._ended, vm, worker))

    def _ended(self, vm: GuardedVm, worker: int) -> None:
        self._loop.unwatch(worker)
        os.close(worker)
        if vm.state is State.CLAIMED:
            log.info("%s: the task that started it has ended", vm.title)
            vm.deadline = self._loop.now() + _AFTERWARDS_S
