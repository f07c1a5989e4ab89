"""Find a VM's QEMU and its helpers by the hypervisor's pid files, without ever waiting for a process.

A pid file only names a candidate. The process's arguments tell what it is, and they arrive later (command_lines.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.command_lines import CommandLines, Lane

#: called with the process that was looked for; with None once it is known that there is none
Found = Callable[[CommandLine | None], object]


class QemuFinder:
    """A search for the processes of VMs; for the loop's thread only."""

    def __init__(self, command_lines: CommandLines, run_dirs: Callable[[], RunDirs]) -> None:
        self._command_lines = command_lines
        self._run_dirs = run_dirs

    def find(self, vm: GuardedVm, found: Found) -> None:
        """Call ``found`` once, as soon as the candidate's arguments are known."""
        self._ask(vm, self._candidate(vm), found)

    def poll(self, vm: GuardedVm, found: Found) -> None:
        """Call ``found`` as ``find`` does, unless the candidate's arguments are being read already."""
        pid = self._candidate(vm)
        if not pid or not self._command_lines.is_asked(Lane.NAMED, pid):
            self._ask(vm, pid, found)

    def _ask(self, vm: GuardedVm, pid: int, found: Found) -> None:
        if pid:
            self._command_lines.ask(Lane.NAMED, pid, functools.partial(self._judge, vm, found))
        else:
            found(None)

    def find_helpers(self, vm: GuardedVm, found: Callable[[CommandLine, Kind], None]) -> None:
        """Call ``found`` for each helper that the hypervisor's files name, as soon as its arguments are known."""
        for pid, kind in hypervisors.by_name(vm.hypervisor).helper_pids(self._run_dirs(), vm.uuid):
            self._command_lines.ask(Lane.NAMED, pid, functools.partial(self._judge_helper, vm, kind, found))

    def _candidate(self, vm: GuardedVm) -> int:
        return hypervisors.candidate(self._run_dirs(), vm.hypervisor, vm.name, vm.uuid)

    def _judge(self, vm: GuardedVm, found: Found, line: CommandLine | None) -> None:
        known = hypervisors.by_name(vm.hypervisor)
        is_its = line is not None and known.is_qemu_of(self._run_dirs(), line.arguments, vm.uuid)
        found(line if is_its else None)

    def _judge_helper(
        self, vm: GuardedVm, kind: Kind, found: Callable[[CommandLine, Kind], None], line: CommandLine | None
    ) -> None:
        if line is not None and hypervisors.by_name(vm.hypervisor).is_helper_of(line, kind, vm.uuid):
            found(line, kind)
