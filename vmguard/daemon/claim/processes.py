"""Follows the processes of VMs by their pidfds: QEMU itself, and the helpers that do I/O for it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

from vmguard.adapters import hypervisors
from vmguard.adapters.linux import proc
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.registry.guarded_vm import BARE, GuardedProcess, GuardedVm
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.keeper")


class Processes:
    """All processes that are followed."""

    def __init__(
        self,
        loop: Loop,
        run_dirs: Callable[[], hypervisors.RunDirs],
        ended: Callable[[GuardedVm, GuardedProcess], None],
    ) -> None:
        """``ended`` is called when a process is proven gone; the VM's list does not have it any more then."""
        self._loop = loop
        self._run_dirs = run_dirs
        self._ended = ended

    def qemu_pid(self, vm: GuardedVm) -> int | None:
        """Return the pid that the hypervisor's own books give for a VM's QEMU; None when there is none."""
        return hypervisors.qemu_pid(self._run_dirs(), vm.hypervisor, vm.name, vm.uuid)

    def follow(self, vm: GuardedVm, pid: int, kind: Kind) -> bool:
        """Follow a process of a VM until it ends. Return False when it is gone, or is another process by now."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        process = GuardedProcess(pid, kind, proc.name(pid), proc.started(pid), pidfd)
        # The number may have changed hands before the pidfd was taken: ask the process itself again.
        if proc.is_dead(pidfd) or (kind is Kind.QEMU and not self._is_qemu_of(vm, pid)):
            os.close(pidfd)
            return False
        vm.processes.append(process)
        self._loop.watch(pidfd, functools.partial(self._readable, vm, process))
        return True

    def follow_helpers(self, vm: GuardedVm) -> None:
        """Follow the helpers that the hypervisor's books give for a VM."""
        for pid, kind in hypervisors.helpers_of(self._run_dirs(), vm.hypervisor, vm.uuid):
            if vm.process(pid) is None:
                self.follow(vm, pid, kind)

    def resume(self, vm: GuardedVm) -> None:
        """Follow again those processes of a state file that are still the same ones."""
        before, vm.processes = vm.processes, []
        for process in before:
            if process.started and proc.started(process.pid) == process.started:
                self.follow(vm, process.pid, process.kind)

    def _is_qemu_of(self, vm: GuardedVm, pid: int) -> bool:
        return vm.hypervisor == BARE or hypervisors.is_qemu_of(self._run_dirs(), vm.hypervisor, pid, vm.uuid)

    def _readable(self, vm: GuardedVm, process: GuardedProcess) -> None:
        if not proc.is_dead(process.pidfd):
            return
        self._loop.unwatch(process.pidfd)
        os.close(process.pidfd)
        vm.processes.remove(process)
        self._ended(vm, process)
