"""Tells when a start on Proxmox is over, by the process that runs it.

A start that fails after a good pre-start calls no further hook, and a start under way may take minutes (a storage to be
activated, huge pages, a resume): no deadline fits both. But the task's worker lives exactly as long as the start. While
it lives the claim waits; when it has ended and QEMU is not there soon after, the start is over.
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

#: for a QEMU that was forked by a worker which was killed meanwhile
_AFTERWARDS_S = 2.0


class StartTasks:
    """The workers of all starts that are under way."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def find(self, hypervisor: Hypervisor, hook: int) -> int:
        """A pidfd of the worker whose hook this is, which must be waiting for us; -1 when there is none."""
        worker = hypervisor.starter_of(hook)
        if not worker:
            return -1
        try:
            pidfd = os.pidfd_open(worker)
        except OSError:
            return -1
        if hypervisor.starter_of(hook) == worker:
            return pidfd
        os.close(pidfd)  # the number has changed hands
        return -1

    def follow(self, vm: GuardedVm, worker: int) -> None:
        """Tie a claim that stands to its worker's pidfd, which the caller hands over."""
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
