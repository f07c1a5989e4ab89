"""Freeze, thaw and kill VMs by pidfd: the only module of the daemon that sends signals.

Freezing is SIGSTOP, not QMP's ``stop``, which would flush to the storage that is not there. Killing is SIGKILL, never
SIGTERM: QEMU would flush first. Signals go to all of the VM's processes: QEMU and its helpers (swtpm,
qemu-storage-daemon), as the registry knows them. What is to be done is decided elsewhere, in the pure watchdog.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
from collections.abc import Callable

from vmguard import faults
from vmguard.adapters.linux import clock, pidfd, proc
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.fence")

#: time for a stopped process to show it in the states of its threads
_PROOF_S = 0.5
#: interval of the checks of these states
_LOOK_S = 0.002
#: interval of SIGSTOP to a frozen VM: a SIGCONT from elsewhere must not let it run for long
_HOLD_S = 1.0
#: states of a thread in which no guest code runs: stopped, traced, waiting in the kernel, gone
_STILL = frozenset("TtDZXI")

#: called with an empty string once it is proven, else with the problem
Done = Callable[[str], None]


class Signals:
    """The sender of signals to VMs' processes: at once, in the loop's thread; ``done`` gets the proof."""

    def __init__(self, loop: Loop, registry: Registry) -> None:
        self._loop = loop
        self._registry = registry
        #: VMs that are stopped again and again
        self._holding: set[str] = set()

    def resume(self) -> None:
        """Keep the VMs stopped that an earlier daemon froze."""
        for vm in self._registry:
            if vm.frozen:
                self._hold(vm)

    def freeze(self, vm: GuardedVm, done: Done) -> None:
        """Stop all of the VM's processes, QEMU first. The state is persisted first, for a later daemon."""
        if not vm.frozen:
            vm.frozen, vm.frozen_since = True, clock.wall()
        self._registry.save(vm)
        faults.point("freeze-saved")
        self._stop(vm)
        faults.point("freeze-sent")
        self._prove(vm, done, self._loop.now() + _PROOF_S)
        self._hold(vm)

    def thaw(self, vm: GuardedVm, done: Done) -> None:
        """Continue the VM's processes, helpers first: QEMU may be waiting for one."""
        for fd in reversed(vm.pidfds):
            pidfd.send(fd, signal.SIGCONT)
        faults.point("thaw-sent")
        vm.frozen, vm.frozen_since = False, ""
        self._registry.save(vm)
        faults.point("thaw-saved")
        done("")

    def kill(self, vm: GuardedVm) -> set[int]:
        """Send SIGKILL to every process; return the pids for which it was accepted.

        Our copies of their descriptions stay open.
        """
        killed = set()
        for process in vm.processes:
            try:
                pidfd.send(process.pidfd, signal.SIGKILL)
                killed.add(process.pid)
            except OSError as problem:
                log.error("%s: SIGKILL to %s: %s", vm.title, process.title, problem)
        return killed

    def _stop(self, vm: GuardedVm) -> None:
        for fd in vm.pidfds:
            pidfd.send(fd, signal.SIGSTOP)

    def _hold(self, vm: GuardedVm) -> None:
        if vm.id not in self._holding:
            self._holding.add(vm.id)
            self._loop.call_in(_HOLD_S, functools.partial(self._hold_on, vm))

    def _hold_on(self, vm: GuardedVm) -> None:
        if not vm.frozen or vm.fencing or self._registry.get(vm.id) is not vm:
            self._holding.discard(vm.id)
            return
        self._loop.call_in(_HOLD_S, functools.partial(self._hold_on, vm))
        self._stop(vm)

    def _prove(self, vm: GuardedVm, done: Done, deadline: float) -> None:
        moving = next((text for process in vm.vouched if (text := _moving(process))), "")
        if not moving:
            done("")
        elif self._loop.now() >= deadline:
            done(moving)
        else:
            self._loop.call_in(_LOOK_S, functools.partial(self._prove, vm, done, deadline))


def _moving(process: GuardedProcess) -> str:
    """Return, in words, a thread of the process that may still run guest code; empty when there is none."""
    try:
        threads = os.listdir(f"/proc/{process.pid}/task")
    except OSError:
        return ""
    for thread in threads:
        if proc.thread_state(process.pid, int(thread)) not in _STILL:
            return f"thread {thread} of {process.title} still runs"
    return ""
