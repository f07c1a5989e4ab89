"""Follow the processes of VMs by their pidfds: QEMU itself, and the helpers that do I/O for it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

from vmguard.adapters.linux import proc, standing
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.claim")


class Processes:
    """All processes that are followed."""

    def __init__(self, loop: Loop, ended: Callable[[GuardedVm, GuardedProcess], None]) -> None:
        """``ended`` is called when a process is proven dead and has been removed from its VM's list."""
        self._loop = loop
        self._ended = ended

    def follow(self, vm: GuardedVm, pid: int, kind: Kind, started: int = 0, vouched: bool = True) -> bool:
        """Follow a process of a VM until it ends. Return False if it is gone, or its pid is another process's by now.

        ``started``: start time of the process that was judged to be the VM's; 0: whichever has the pid now.
        ``vouched``: the kernel says that it is the VM's (kinship.py); otherwise only the process itself does.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        found = standing.of(pid)
        scope = found.scope.path if found is not None and found.scope is not None else ""
        process = GuardedProcess(pid, kind, proc.name(pid), proc.started(pid), pidfd, vouched, scope)
        # The pid may have been reused before the pidfd was opened. Pid and start time together identify a process.
        if proc.is_dead(pidfd) or (started and process.started != started):
            os.close(pidfd)
            return False
        vm.processes.append(process)
        self._loop.watch(pidfd, functools.partial(self._readable, vm, process))
        return True

    def resume(self, vm: GuardedVm) -> None:
        """Follow those processes of a state file that still run; the others are dropped."""
        before, vm.processes = vm.processes, []
        for process in before:
            if process.started and proc.started(process.pid) == process.started:
                self.follow(vm, process.pid, process.kind, process.started, process.vouched)

    def _readable(self, vm: GuardedVm, process: GuardedProcess) -> None:
        if not proc.is_dead(process.pidfd):
            return
        self._loop.unwatch(process.pidfd)
        os.close(process.pidfd)
        vm.processes.remove(process)
        self._ended(vm, process)
