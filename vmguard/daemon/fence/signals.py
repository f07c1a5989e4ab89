"""What the watchdog does to a VM: freeze, thaw, kill. By pidfd, local, without asking anybody.

Freezing is SIGSTOP, not QMP's ``stop``: that one would flush to the storage that is not there. Killing is SIGKILL,
never SIGTERM: QEMU would flush first. All of the VM's processes are meant: QEMU and its helpers (swtpm,
qemu-storage-daemon), as the registry knows them.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from vmguard import faults
from vmguard.adapters.linux import clock, pidfd, proc
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.acts")

#: seconds that a stopped process gets to show it, and between two looks at it
_PROOF, _LOOK = 0.5, 0.002
#: states of a thread in which no guest code runs: stopped, traced, waiting in the kernel, gone
_STILL = frozenset("TtDZXI")

#: called with an empty text when it is proven, else with what is wrong
Done = Callable[[str], None]


class Acts:
    """Signals are sent at once, in the loop's thread: they do not wait. Their proof comes by ``done``."""

    def __init__(self, loop: Loop, registry: Registry) -> None:
        self._loop = loop
        self._registry = registry

    def freeze(self, vm: GuardedVm, done: Done) -> None:
        """Stop all of the VM's processes, QEMU first. Written down before: a daemon after this one must know."""
        vm.frozen = True
        self._registry.save(vm)
        faults.point("freeze-saved")
        for fd in vm.pidfds:
            pidfd.send(fd, signal.SIGSTOP)
        faults.point("freeze-sent")
        self._prove(vm, done, clock.boottime() + _PROOF)

    def thaw(self, vm: GuardedVm, done: Done) -> None:
        """Let them go on, helpers first: QEMU may be waiting for one. Not when it is stopped over a conflict, too."""
        for fd in [] if vm.stopped else reversed(vm.pidfds):
            pidfd.send(fd, signal.SIGCONT)
        faults.point("thaw-sent")
        vm.frozen = False
        self._registry.save(vm)
        faults.point("thaw-saved")
        done("")

    def kill(self, vm: GuardedVm) -> set[int]:
        """SIGKILL to each; those of whom the kernel took it. Our copies of their descriptions stay open."""
        killed = set()
        for process in vm.processes:
            try:
                pidfd.send(process.pidfd, signal.SIGKILL)
                killed.add(process.pid)
            except OSError as problem:
                log.error("%s: SIGKILL to %s: %s", vm.title, process.title, problem)
        return killed

    def _prove(self, vm: GuardedVm, done: Done, deadline: float) -> None:
        moving = next((text for process in vm.processes if (text := _moving(process))), "")
        if not moving:
            done("")
        elif clock.boottime() >= deadline:
            done(moving)
        else:
            self._loop.call_in(_LOOK, lambda: self._prove(vm, done, deadline))


def _moving(process: GuardedProcess) -> str:
    """Which of its threads may still run guest code; empty when none does."""
    try:
        threads = os.listdir(f"/proc/{process.pid}/task")
    except OSError:
        return ""
    for thread in threads:
        if proc.thread_state(process.pid, int(thread)) not in _STILL:
            return f"thread {thread} of {process.title} still runs"
    return ""
