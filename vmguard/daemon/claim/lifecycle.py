"""Keeps claims: takes the locked descriptors over from hooks, finds QEMU, takes up what a daemon before this one had.

Everything here runs in the loop's thread and never touches the share. What ends a claim is in release/releaser.py.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from vmguard import faults
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import mounts, proc, systemd
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import RESERVATION, Range, covers
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.claim.processes import Processes
from vmguard.daemon.claim.qemu_finder import QemuFinder
from vmguard.daemon.owner_records.mark_released import MarkReleased
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.release.releaser import Releaser
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.loop import Loop
from vmguard.errors import DaemonError

log = logging.getLogger("vmguard.keeper")

#: of the word with which a hypervisor says why a VM ended
_REASON_CHARACTERS = 30


@dataclass(frozen=True)
class Timing:
    """The deadlines of a claim, in seconds, and the run-time folders of the hypervisors."""

    start_deadline: float
    poll_interval: float
    libvirt_run_dir: str
    proxmox_run_dir: str = "/run/qemu-server"

    @property
    def run_dirs(self) -> RunDirs:
        return RunDirs(self.libvirt_run_dir, self.proxmox_run_dir)


class ClaimLifecycle:
    """The life of all claims: offered by a hook, claimed, running, ended; the releaser does the rest."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        pinner: Pinner,
        releaser: Releaser,
        timing: Callable[[], Timing],
        mark_released: MarkReleased,
        command_lines: CommandLines,
        on_running: Callable[[GuardedVm], None],
        explain_released: Callable[[str, str], None] = lambda vm_id, reason: None,
    ) -> None:
        """``on_running``: told when a VM's QEMU is known. ``explain_released``: why a VM ended that was released."""
        self._explain_released = explain_released
        self._loop = loop
        self._registry = registry
        self._pinner = pinner
        self._releaser = releaser
        self._mark_released = mark_released
        self._processes = Processes(loop, self._process_ended)
        self._finder = QemuFinder(command_lines, lambda: timing().run_dirs)
        self._timing = timing
        self.on_running = on_running

    @property
    def timing(self) -> Timing:
        """What the configuration says now."""
        return self._timing()

    # -- taking over ------------------------------------------------------------------------------------------------

    def accept(self, vm: GuardedVm, claimant: int) -> None:
        """Take over a VM whose descriptors all have arrived. Raises DaemonError or OSError: nothing is kept then."""
        for file in vm.files:
            _verify(file)
        faults.point("accept-before-state")
        self._registry.add(vm)
        faults.point("accept-before-store")
        vm.claimant = os.dup(claimant)
        self._loop.watch(vm.claimant, functools.partial(self._claimant_ended, vm))
        for file in vm.files:
            descriptor = file.guard.descriptor
            if descriptor is not None and systemd.may_store(descriptor):
                systemd.store(vm.store_name(file), descriptor)
        faults.point("accepted")
        log.info("%s: %d files locked and held", vm.title, len(vm.files))

    def discard(self, files: list[GuardedFile]) -> None:
        """Let go of descriptors that never became a VM's."""
        self._releaser.discard(files)

    def commit(self, vm: GuardedVm) -> None:
        """The hook says that its claim stands: QEMU is about to be started."""
        if vm.state is not State.OFFERED:
            return
        vm.move(State.CLAIMED, "the hook's claim stands")
        self._releaser.forget_claimant(vm)
        vm.deadline = self._loop.now() + self.timing.start_deadline
        faults.point("commit-before-state")
        self._registry.save(vm)
        faults.point("committed-by-daemon")
        self._look_for_qemu(vm)

    def recorded(self, vm: GuardedVm, epochs: dict[int, int]) -> None:
        """The hook has written owner records, whose epochs it tells by inode."""
        for file in vm.files:
            file.epoch = epochs.get(file.key[1], file.epoch)
        if self._registry.get(vm.id) is vm:
            self._registry.save(vm)
        else:  # the claim was released before its records were written: they must not look as if it stood
            self._mark_released(vm, vm.files)

    def _claimant_ended(self, vm: GuardedVm) -> None:
        # What the hook sent before it ended lies in its connection's queue: let the loop read that first.
        self._releaser.forget_claimant(vm)
        self._loop.call_after_reading(functools.partial(self.settle, vm))

    # -- what the hypervisor says -----------------------------------------------------------------------------------

    def started(self, vm: GuardedVm) -> None:
        """The hypervisor says that QEMU is there: look at once."""
        if vm.state is State.CLAIMED:
            self._finder.find(vm, functools.partial(self._qemu_found, vm))

    def ended(self, vm: GuardedVm) -> None:
        """The hypervisor says that the VM ended: a reason to look, never a proof."""
        if vm.state is State.CLAIMED:
            self._finder.find(vm, functools.partial(self._ended_or_found, vm))

    def explain(self, vm_id: str, reason: str) -> None:
        """The hypervisor says why a VM ended: for its owner records, which may be marked already."""
        vm = self._registry.get(vm_id)
        if vm is not None:
            vm.ended = reason[:_REASON_CHARACTERS]
        elif reason:
            self._explain_released(vm_id, reason[:_REASON_CHARACTERS])

    def _ended_or_found(self, vm: GuardedVm, line: CommandLine | None) -> None:
        if vm.state is State.CLAIMED and not self._qemu_found(vm, line):
            vm.start_is_over = True
            self.settle(vm)

    def settle(self, vm: GuardedVm) -> None:
        """Decide about a claim without a living QEMU: release it on proof, else examine it again soon."""
        self._releaser.settle(vm)

    # -- after a restart of the daemon ------------------------------------------------------------------------------

    def resume(self, vm: GuardedVm, stored: dict[str, int]) -> None:
        """Take a VM up again that a daemon before this one guarded; ``stored``: what systemd kept, by name."""
        vm.resumed = True
        for file in vm.files:
            descriptor = stored.pop(vm.store_name(file), None)
            file.guard.taken_over(descriptor)
            if descriptor is None:
                log.warning("%s: the daemon before this one took its descriptor of %s with it", vm.title, file.path)
        if vm.state is State.RELEASING:
            vm.move(State.ENDED, "the daemon before this one ended while it let go of the locks")
        vm.deadline = self._loop.now() + self.timing.start_deadline
        if vm.state is State.OFFERED:
            vm.move(State.CLAIMED, "taken up again after a restart of the daemon")
        self._resume_processes(vm)
        if vm.state is State.CLAIMED:
            self._look_for_qemu(vm)
        self.settle(vm)

    def _resume_processes(self, vm: GuardedVm) -> None:
        """Follow the processes again; the state stays unless QEMU is gone."""
        self._processes.resume(vm)
        if vm.state not in LIVING:
            return
        if vm.main is not None:
            self._pinner.attend(vm)
        else:
            self._finder.find(vm, functools.partial(self._resume_another, vm))

    def _resume_another(self, vm: GuardedVm, line: CommandLine | None) -> None:
        """Go on with the process that the pid file of a VM names now, if that is its QEMU; else the VM has ended."""
        if vm.state not in LIVING or vm.main is not None or self._registry.get(vm.id) is not vm:
            return
        if line is not None and self.follow(vm, line.pid, Kind.QEMU, line.started):
            vm.pid = line.pid
            self._pinner.attend(vm)
        else:
            vm.move(State.ENDED, "QEMU ended while the daemon was down")
            self.settle(vm)

    # -- processes --------------------------------------------------------------------------------------------------

    def _look_for_qemu(self, vm: GuardedVm) -> None:
        """Look for the QEMU of a claim at each interval; its deadline only makes it examined, it proves nothing."""
        if vm.state is not State.CLAIMED or self._registry.get(vm.id) is not vm:
            return
        is_due = vm.deadline is not None and self._loop.now() >= vm.deadline and not vm.start_is_over
        self._finder.poll(vm, functools.partial(self._overdue_or_found if is_due else self._qemu_found, vm))
        self._loop.call_in(self.timing.poll_interval, functools.partial(self._look_for_qemu, vm))

    def _overdue_or_found(self, vm: GuardedVm, line: CommandLine | None) -> None:
        if vm.state is State.CLAIMED and self._registry.get(vm.id) is vm and not self._qemu_found(vm, line):
            log.warning("%s: no QEMU within %.0f s of its claim", vm.title, self.timing.start_deadline)
            vm.start_is_over = True
            self.settle(vm)

    def _qemu_found(self, vm: GuardedVm, line: CommandLine | None) -> bool:
        """Take note of a claim's QEMU, or that there is none. Return whether the claim has it now."""
        if line is None or vm.state is not State.CLAIMED or self._registry.get(vm.id) is not vm:
            return False
        return self.runs(vm, line.pid, Kind.QEMU, line.started)

    def runs(self, vm: GuardedVm, pid: int, kind: Kind, started: int = 0) -> bool:
        """Take note of a VM's QEMU, or of what stands in its place. Return False when it is not the VM's after all."""
        if not self.follow(vm, pid, kind, started):
            return False
        vm.pid = pid
        self._finder.find_helpers(vm, functools.partial(self._helper_found, vm))
        vm.move(State.INCOMING if vm.incoming else State.RUNNING, f"QEMU is pid {pid}")
        faults.point("running-before-state")
        self._registry.save(vm)
        faults.point("running")
        self.on_running(vm)
        self._pinner.attend(vm)
        return True

    def _helper_found(self, vm: GuardedVm, line: CommandLine, kind: Kind) -> None:
        if vm.state not in LIVING or self._registry.get(vm.id) is not vm or vm.process(line.pid):
            return
        if self.follow(vm, line.pid, kind, line.started):
            self._registry.save(vm)
            self._pinner.attend(vm)

    def follow(self, vm: GuardedVm, pid: int, kind: Kind, started: int = 0) -> bool:
        """Follow a process of a VM until it ends. Return False when it is gone, or is another process by now.

        ``started``: when the process began that was judged to be the VM's; 0 for the one that has the number now.
        """
        return self._processes.follow(vm, pid, kind, started)

    def _process_ended(self, vm: GuardedVm, process: GuardedProcess) -> None:
        if process.pid == vm.pid and vm.state in LIVING:
            vm.move(State.ENDED, f"{process.title} is proven gone")
            faults.point("ended")
        else:
            log.info("%s: its helper %s is gone", vm.title, process.title)
            self._pinner.attend(vm)
        self.settle(vm)


def _verify(file: GuardedFile) -> None:
    """Believe the kernel, not the hook: the description must be of that file and hold these ranges.

    Raises DaemonError.
    """
    if file.guard.descriptor is None:
        raise DaemonError(f"no descriptor has come for {file.path}")
    info = proc.fdinfo("self", file.guard.descriptor)
    if info.inode and info.inode != file.key[1]:
        raise DaemonError(f"the descriptor for {file.path} belongs to another file (inode {info.inode})")
    file.key = (mounts.devices().get(info.mount_id, file.key[0]), info.inode or file.key[1])
    exclusive = file.mode == EXCLUSIVE
    locked: list[Range] = [(start, length) for write, start, length in proc.lock_ranges(info) if write or not exclusive]
    for piece in [RESERVATION] if file.guard.is_reserved else file.pieces:
        if not covers(locked, piece):
            raise DaemonError(f"the descriptor for {file.path} does not hold the lock that was claimed")
