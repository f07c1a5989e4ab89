"""Whose process a helper is: what the kernel vouches for, and what is only said.

A helper is *vouched for* when it shares the control group of its VM's QEMU, descends from a process of that VM, or is
named by a pid file of the hypervisor's. It is as good as QEMU: its files are guarded, and the locks wait for its end.

A helper that names the VM in its arguments, or has a file of the VM open, has only said so. If it is root's, or runs as
QEMU's user outside of all VMs, it stops, continues and dies with the VM. But nothing of the VM depends on it: it makes
no file a guarded one, carries no lock, and no lock waits for its end. From anybody else not even that is believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import proc, standing
from vmguard.adapters.linux.proc import CommandLine
from vmguard.adapters.linux.standing import Standing
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm


class Families:
    """The living VMs by their control groups and their processes, for one look at many others."""

    def __init__(self, vms: Iterable[GuardedVm]) -> None:
        self._by_scope: dict[str, GuardedVm] = {}
        self._by_pid: dict[int, tuple[GuardedVm, GuardedProcess]] = {}
        for vm in vms:
            if vm.state in LIVING and vm.main is not None:
                self._by_scope[vm.main.scope] = vm
                self._by_pid.update((process.pid, (vm, process)) for process in vm.vouched)
        self._by_scope.pop("", None)

    def vm_of(self, found: Standing, ancestors: Collection[int]) -> GuardedVm | None:
        """Return the VM that the kernel says a process is of: by its control group, else by its ancestors.

        ``ancestors``: as they once were. One that is in question is looked for anew.
        """
        if found.scope is not None:
            return self._by_scope.get(found.scope.path)
        if self._by_pid.keys().isdisjoint(ancestors):
            return None
        for pid in standing.ancestors(found.pid):
            vm, process = self._by_pid.get(pid, (None, None))
            # The number of a process that is followed and not dead belongs to nobody else.
            if process is not None and not proc.is_dead(process.pidfd):
                return vm
        return None


def is_named_helper(vm: GuardedVm, run_dirs: RunDirs, line: CommandLine) -> bool:
    """Return whether a pid file of the hypervisor's names a process as a helper of the VM, and its arguments agree."""
    known = hypervisors.by_name(vm.hypervisor)
    kinds = [kind for pid, kind in known.helper_pids(run_dirs, vm.uuid) if pid == line.pid]
    return any(known.is_helper_of(line, kind, vm.uuid) for kind in kinds)


def may_serve(kind: Kind, found: Standing, users: Collection[int]) -> bool:
    """Return whether a process may be believed a little that says whom it serves. ``users``: QEMU's own."""
    return kind is not Kind.QEMU and found.scope is None and (found.is_root or found.runs_as(users))
