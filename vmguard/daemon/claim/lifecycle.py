"""Keep claims: take the locked descriptors over from hooks, find QEMU, resume what an earlier daemon guarded.

Everything here runs in the loop's thread and never touches the share. Claims are ended by release/releaser.py.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmguard import faults
from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import mounts, ofd, proc, standing, systemd
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import RESERVATION, Range, covers
from vmguard.core.sources.process_arguments import Kind
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.words import printable
from vmguard.daemon.claim.kinship import Families
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

log = logging.getLogger("vmguard.claim")

#: longest reason that a hypervisor may give for a VM's end
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
        on_held: Callable[[GuardedVm], None] = lambda vm: None,
        report: Callable[[Report], None] = lambda report: None,
    ) -> None:
        """``on_running`` is called with a VM whose QEMU has been found, ``on_held`` with one whose locks are here.

        ``explain_released`` is called with the id of a VM that is released already, and the reason for its end.
        """
        self._explain_released = explain_released
        self._report = report
        self._loop = loop
        self._registry = registry
        self._pinner = pinner
        self._releaser = releaser
        self._mark_released = mark_released
        self._processes = Processes(loop, self._process_ended)
        self._finder = QemuFinder(command_lines, lambda: timing().run_dirs)
        self._timing = timing
        self.on_running = on_running
        self._on_held = on_held

    @property
    def timing(self) -> Timing:
        """Return what the configuration says now."""
        return self._timing()

    # -- taking over ------------------------------------------------------------------------------------------------

    def accept(self, vm: GuardedVm, claimant: int) -> None:
        """Take over a VM whose descriptors have all arrived.

        Raises DaemonError or OSError; nothing is kept then.
        """
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
        # Now, not at the next look: from here on the watchdog sees what may cost the locks, as the hook did so far.
        self._on_held(vm)
        log.info("%s: %d files locked and held", vm.title, len(vm.files))

    def discard(self, files: list[GuardedFile]) -> None:
        """Unlock and close descriptors that never became a VM's."""
        self._releaser.discard(files)

    def close(self, fds: Sequence[int]) -> None:
        """Close descriptors that came over the socket and that nobody wants."""
        self._releaser.close(fds)

    def commit(self, vm: GuardedVm) -> None:
        """Confirm a claim, as its hook asks: QEMU is about to be started."""
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
        """Store the epochs of the owner records that the hook has written, by inode."""
        for file in vm.files:
            file.epoch = epochs.get(file.key[1], file.epoch)
        if self._registry.get(vm.id) is vm:
            self._registry.save(vm)
        else:  # the claim was released before its records were written: they must not show it as valid
            self._mark_released(vm, vm.files)

    def _claimant_ended(self, vm: GuardedVm) -> None:
        # Let the loop read first what the hook sent before it ended: it is still queued in the connection.
        self._releaser.forget_claimant(vm)
        self._loop.call_after_reading(functools.partial(self.settle, vm))

    # -- hints of the hypervisor ------------------------------------------------------------------------------------

    def started(self, vm: GuardedVm) -> None:
        """Look for QEMU at once: the hypervisor says that it is running."""
        if vm.state is State.CLAIMED:
            self._finder.find(vm, functools.partial(self._qemu_found, vm))

    def ended(self, vm: GuardedVm) -> None:
        """Check on a VM that has ended as its hypervisor says, which is a hint and never a proof."""
        if vm.state is State.CLAIMED:
            self._finder.find(vm, functools.partial(self._ended_or_found, vm))

    def explain(self, vm_id: str, reason: str) -> None:
        """Note why a VM ended, for its owner records, which may be marked as released already."""
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
        """Decide about a claim without a running QEMU: release it on proof, else check again soon."""
        self._releaser.settle(vm)

    # -- after a restart of the daemon ------------------------------------------------------------------------------

    def resume(self, vm: GuardedVm, stored: dict[str, int]) -> None:
        """Resume guarding a VM of an earlier daemon. ``stored``: the descriptors that systemd kept, by name."""
        vm.resumed = True
        for file in vm.files:
            descriptor = stored.pop(vm.store_name(file), None)
            file.guard.taken_over(descriptor)
            if descriptor is None:
                log.warning("%s: the descriptor of %s was lost with the earlier daemon", vm.title, file.path)
        if vm.state is State.RELEASING:
            vm.move(State.ENDED, "an earlier daemon ended while it released the locks")
        vm.deadline = self._loop.now() + self.timing.start_deadline
        if vm.state is State.OFFERED:
            vm.move(State.CLAIMED, "resumed after a restart of the daemon")
        self._resume_processes(vm)
        if vm.state is State.CLAIMED:
            self._look_for_qemu(vm)
        self.settle(vm)

    def _resume_processes(self, vm: GuardedVm) -> None:
        """Follow the VM's processes again. Its state stays unless QEMU is gone."""
        self._processes.resume(vm)
        if vm.state not in LIVING:
            return
        if vm.main is not None:
            self._judge_helpers(vm)
            self._pinner.attend(vm)
        else:
            self._finder.find(vm, functools.partial(self._resume_another, vm))

    def _judge_helpers(self, vm: GuardedVm) -> None:
        """Ask anew who vouches for the helpers: a daemon before this one may have believed their arguments alone."""
        family = Families([vm])
        for process in vm.processes:
            found = standing.of(process.pid)
            if found is not None and found.started == process.started:
                process.vouched |= family.vm_of(found, standing.ancestors(process.pid)) is vm
        self._finder.find_helpers(vm, functools.partial(self._helper_found, vm))

    def _resume_another(self, vm: GuardedVm, line: CommandLine | None) -> None:
        """Continue with the process in the VM's pid file if it is its QEMU; otherwise the VM has ended."""
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
        """Look for a claim's QEMU at each interval. A deadline that passes proves nothing: the claim is examined."""
        if vm.state is not State.CLAIMED or self._registry.get(vm.id) is not vm:
            return
        is_due = vm.deadline is not None and self._loop.now() >= vm.deadline and not vm.start_is_over
        self._finder.poll(vm, functools.partial(self._overdue_or_found if is_due else self._qemu_found, vm))
        self._loop.call_in(self.timing.poll_interval, functools.partial(self._look_for_qemu, vm))

    def _overdue_or_found(self, vm: GuardedVm, line: CommandLine | None) -> None:
        if vm.state is State.CLAIMED and self._registry.get(vm.id) is vm and not self._qemu_found(vm, line):
            why = hypervisors.why_not_believed(self.timing.run_dirs, vm.hypervisor, vm.name, vm.uuid)
            log.warning(
                "%s: no QEMU within %.0f s of its claim%s",
                vm.title,
                self.timing.start_deadline,
                f": {why}, so it is not believed" if why else "",
            )
            vm.start_is_over = True
            self.settle(vm)

    def _qemu_found(self, vm: GuardedVm, line: CommandLine | None) -> bool:
        """Follow the QEMU that was found for a claim, if any. Return whether there is one."""
        if line is None or vm.state is not State.CLAIMED or self._registry.get(vm.id) is not vm:
            return False
        return self.runs(vm, line.pid, Kind.QEMU, line.started)

    def runs(self, vm: GuardedVm, pid: int, kind: Kind, started: int = 0) -> bool:
        """Follow a VM's QEMU, or what stands in its place, from now on. Return False if it is gone."""
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
        """Take note of a helper that a pid file of the hypervisor's names."""
        if vm.state not in LIVING or self._registry.get(vm.id) is not vm:
            return
        known = vm.process(line.pid)
        if known is not None and known.started == line.started:
            known.vouched = True
        elif not self.follow(vm, line.pid, kind, line.started):
            return
        self._registry.save(vm)
        self._pinner.attend(vm)

    def follow(self, vm: GuardedVm, pid: int, kind: Kind, started: int = 0, vouched: bool = True) -> bool:
        """Follow a process of a VM until it ends. Return False if it is gone; see ``Processes.follow``."""
        return self._processes.follow(vm, pid, kind, started, vouched)

    def _process_ended(self, vm: GuardedVm, process: GuardedProcess) -> None:
        if process.pid == vm.pid and vm.state in LIVING:
            vm.move(State.ENDED, f"{process.title} is proven dead")
            if not vm.fencing:  # whose steps are reported
                why = f"; its hypervisor says: {printable(vm.ended)}" if vm.ended else ""
                text = f"{vm.title} has ended: {process.title} is gone{why}"
                self._report(Report(Level.INFO, "vm.ended", text, {"vm": vm.id}))
            faults.point("ended")
        else:
            log.info("%s: its helper %s has ended", vm.title, process.title)
            self._pinner.attend(vm)
        self.settle(vm)


def _verify(file: GuardedFile) -> None:
    """Verify in the kernel, not with the hook, that the description is of that file and holds its ranges.

    Raises DaemonError.
    """
    if file.guard.descriptor is None:
        raise DaemonError(f"no descriptor was received for {file.path}")
    info = proc.fdinfo("self", file.guard.descriptor)
    if info.inode and info.inode != file.key[1]:
        raise DaemonError(f"the descriptor for {file.path} belongs to another file (inode {info.inode})")
    file.key = (mounts.devices().get(info.mount_id, file.key[0]), info.inode or file.key[1])
    exclusive = file.mode == EXCLUSIVE
    locked: list[Range] = [(start, length) for write, start, length in proc.lock_ranges(info) if write or not exclusive]
    for piece in [RESERVATION] if file.guard.is_reserved else file.pieces:
        if not covers(locked, piece):
            stays = ofd.stays_here(file.guard.descriptor)
            why = ": it has not left this host's NFS client (a delegation)" if stays else ""
            raise DaemonError(f"the descriptor for {file.path} does not hold the lock that was claimed{why}")
