"""Keeps claims: takes the locked descriptors over, follows QEMU by its pidfd, lets go only on proof.

Everything here runs in the loop's thread and never touches the share: unlocking and closing go to the file system's
worker, owner records to a process of their own.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from vmguard import faults
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import clock, mounts, proc, systemd
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core.locks.claim_states import LIVING, Action, Evidence, State, decide
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import FOOTHOLD, Range, covers
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.claim.qemu_finder import QemuFinder
from vmguard.daemon.owner_records.mark_released import MarkReleased
from vmguard.daemon.pin.lock_transfer import let_go
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import THIS_HOST, Workers
from vmguard.errors import DaemonError

log = logging.getLogger("vmguard.keeper")

#: seconds between two looks at a claim that waits for its proof
_AGAIN = 0.5


@dataclass(frozen=True)
class Timing:
    """How patient the keeper is, in seconds."""

    start_deadline: float
    poll_interval: float
    libvirt_run_dir: str
    proxmox_run_dir: str = "/run/qemu-server"

    @property
    def run_dirs(self) -> RunDirs:
        return RunDirs(self.libvirt_run_dir, self.proxmox_run_dir)


class Keeper:
    """The life of claims (design: claim, hold, release)."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        registry: Registry,
        pinner: Pinner,
        timing: Timing,
        mark_released: MarkReleased,
        command_lines: CommandLines,
    ) -> None:
        self._loop = loop
        self._workers = workers
        self._registry = registry
        self._pinner = pinner
        self._mark_released = mark_released
        self._finder = QemuFinder(command_lines, lambda: self.timing.run_dirs)
        self.timing = timing
        #: told when a VM's QEMU is known
        self.on_running: Callable[[GuardedVm], None] = lambda vm: None

    # -- taking over ------------------------------------------------------------------------------------------------

    def accept(self, vm: GuardedVm, claimant: int) -> None:
        """Take over a VM whose descriptors all have arrived. Raises DaemonError or OSError: nothing is kept then."""
        for file in vm.files:
            _verify(file)
        faults.point("accept-before-state")
        self._registry.add(vm)
        faults.point("accept-before-store")
        vm.claimant = os.dup(claimant)
        self._loop.watch(vm.claimant, lambda: self._claimant_ended(vm))
        for file in vm.files:
            if systemd.may_store(file.fd):
                systemd.store(vm.store_name(file), file.fd)
        faults.point("accepted")
        log.info("%s: %d files locked and held", vm.title, len(vm.files))

    def discard(self, files: list[GuardedFile]) -> None:
        """Let go of descriptors that never became a VM's."""
        for device, fds in _by_device(files).items():
            self._workers.run(device, "close a refused claim", lambda fds=fds: let_go(fds), _ignore)  # type: ignore[misc]

    def commit(self, vm: GuardedVm) -> None:
        """The hook says that its claim stands: QEMU is about to be started."""
        if vm.state is not State.OFFERED:
            return
        vm.move(State.CLAIMED, "the hook's claim stands")
        self._forget_claimant(vm)
        vm.deadline = clock.boottime() + self.timing.start_deadline
        faults.point("commit-before-state")
        self._registry.save(vm)
        faults.point("committed-by-daemon")
        self._look_for_qemu(vm)

    def recorded(self, vm: GuardedVm, epochs: dict[int, int]) -> None:
        for file in vm.files:
            file.epoch = epochs.get(file.key[1], file.epoch)
        if self._registry.get(vm.id) is vm:
            self._registry.save(vm)
        else:  # the claim was released before its records were written: they must not look as if it stood
            self._mark_released(vm, vm.files)

    # -- following --------------------------------------------------------------------------------------------------

    def started(self, vm: GuardedVm) -> None:
        """The hypervisor says that QEMU is there: look at once."""
        if vm.state is State.CLAIMED:
            self._finder.find(vm, functools.partial(self._qemu_found, vm))

    def ended(self, vm: GuardedVm) -> None:
        """The hypervisor says that the VM ended: a reason to look, never a proof."""
        if vm.state is State.CLAIMED:
            self._finder.find(vm, functools.partial(self._ended_or_found, vm))

    def _ended_or_found(self, vm: GuardedVm, line: CommandLine | None) -> None:
        if vm.state is State.CLAIMED and not self._qemu_found(vm, line):
            vm.start_is_over = True
            self.settle(vm)

    def settle(self, vm: GuardedVm) -> None:
        """Decide about a claim without a living QEMU: release it on proof, else look again soon."""
        if vm.state in (*LIVING, State.RELEASING) or vm.draining or vm.looking or self._registry.get(vm.id) is not vm:
            return
        # A file that is only shared may well be open in another VM: a template is in dozens of them.
        own = {file.key for file in vm.files if file.mode == EXCLUSIVE}
        vm.looking = True
        # In a thread: with ten thousand descriptors on this host it takes a quarter of a second.
        self._workers.run(
            THIS_HOST,
            f"who has the files of {vm.title} open",
            lambda: proc.users_of(own, exclude={os.getpid(), *systemd.keepers()}),
            lambda users: self._judge(vm, users),
        )

    def _judge(self, vm: GuardedVm, users: object) -> None:
        """The files' users are known (a list of OpenFile, or the exception that hid them)."""
        vm.looking = False
        if vm.state in (*LIVING, State.RELEASING) or vm.draining or self._registry.get(vm.id) is not vm:
            return
        if self._pinner.has_in_hand(vm):
            self._loop.call_in(_AGAIN, lambda: self.settle(vm))
            return
        names = None
        if isinstance(users, list):
            helpers_left = {process.title for process in vm.processes}
            names = tuple(sorted({f"{proc.name(user.pid)} (pid {user.pid})" for user in users} | helpers_left))
        evidence = Evidence(
            claimant_alive=vm.claimant >= 0 and not proc.is_dead(vm.claimant),
            start_is_over=vm.start_is_over,
            users=names,
            drained=vm.drained or (vm.state is not State.ENDED and not vm.rebuilt),
        )
        action, why = decide(vm.state, evidence)
        if action is Action.RELEASE:
            self._release(vm, why)
            return
        if why != vm.why:
            log.info("%s: not released: %s", vm.title, why)
            vm.why = why
        if action is Action.DRAIN:
            self._drain(vm)
        else:
            self._loop.call_in(_AGAIN, lambda: self.settle(vm))

    def _drain(self, vm: GuardedVm) -> None:
        """Keep our copies, which turn a stale write into EIO, until another process has seen the last one through."""
        if vm.draining:
            return

        def drained(status: int) -> None:
            vm.draining = False
            vm.drained = status == 0
            faults.point("drained")
            self.settle(vm)

        written = [file for file in vm.files if file.mode == EXCLUSIVE]
        fds = [file.fd for file in written if file.fd >= 0]
        words = [str(file.fd) if file.fd >= 0 else f"{file.key[1]}:{file.real or file.path}" for file in written]
        if not words:
            drained(0)
            return
        vm.draining = True
        try:
            subprocesses.start(self._loop, "drain", drained, words=words, fds=fds)
        except (OSError, MemoryError) as problem:
            vm.draining = False
            log.error("%s: cannot prove that its writes are through: %s", vm.title, problem)
            self._loop.call_in(_AGAIN, lambda: self.settle(vm))

    def resume(self, vm: GuardedVm, stored: dict[str, int]) -> None:
        """Take a VM up again that a daemon before this one guarded."""
        for file in vm.files:
            file.fd = stored.pop(vm.store_name(file), -1)
            if file.fd < 0:
                log.warning("%s: the daemon before this one took its descriptor of %s with it", vm.title, file.path)
        if vm.state is State.RELEASING:
            vm.state = State.ENDED
        vm.deadline = clock.boottime() + self.timing.start_deadline
        if vm.state is State.OFFERED:
            vm.move(State.CLAIMED, "taken up again after a restart of the daemon")
        self._resume_processes(vm)
        if vm.state is State.CLAIMED:
            self._look_for_qemu(vm)
        self.settle(vm)

    def _resume_processes(self, vm: GuardedVm) -> None:
        """Follow again the processes that are still the same ones; the state stays unless QEMU is gone."""
        before, vm.processes = vm.processes, []
        for process in before:
            if process.started and proc.started(process.pid) == process.started:
                self.follow(vm, process.pid, process.kind, process.started)
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

    def _look_for_qemu(self, vm: GuardedVm) -> None:
        if vm.state is not State.CLAIMED or self._registry.get(vm.id) is not vm:
            return
        is_due = clock.boottime() >= vm.deadline and not vm.start_is_over
        self._finder.poll(vm, functools.partial(self._overdue_or_found if is_due else self._qemu_found, vm))
        self._loop.call_in(self.timing.poll_interval, lambda: self._look_for_qemu(vm))

    def _overdue_or_found(self, vm: GuardedVm, line: CommandLine | None) -> None:
        if vm.state is State.CLAIMED and self._registry.get(vm.id) is vm and not self._qemu_found(vm, line):
            log.warning("%s: no QEMU within %.0f s of its claim", vm.title, self.timing.start_deadline)
            vm.start_is_over = True
            self.settle(vm)

    def _qemu_found(self, vm: GuardedVm, line: CommandLine | None) -> bool:
        """A claim's QEMU is found, or there is none; whether the claim has it now."""
        if line is None or vm.state is not State.CLAIMED or self._registry.get(vm.id) is not vm:
            return False
        return self.runs(vm, line.pid, Kind.QEMU, line.started)

    def runs(self, vm: GuardedVm, pid: int, kind: Kind, started: int = 0) -> bool:
        """The VM's QEMU (or what stands in its place) is found; False when it is not the VM's after all."""
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
        """Follow a process of the VM by its pidfd until it ends; False when it is gone or somebody else by now.

        ``started``: when the process began that was judged to be the VM's; 0 for the one that has the number now.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        process = GuardedProcess(pid, kind, proc.name(pid), proc.started(pid), pidfd)
        # The number may have changed hands before the pidfd was taken: pid and start together name a process for ever.
        if proc.is_dead(pidfd) or (started and process.started != started):
            os.close(pidfd)
            return False
        vm.processes.append(process)
        self._loop.watch(pidfd, lambda: self._process_ended(vm, process))
        return True

    def _process_ended(self, vm: GuardedVm, process: GuardedProcess) -> None:
        if not proc.is_dead(process.pidfd):
            return
        self._loop.unwatch(process.pidfd)
        os.close(process.pidfd)
        vm.processes.remove(process)
        if process.pid == vm.pid and vm.state in LIVING:
            vm.move(State.ENDED, f"{process.title} is proven gone")
            faults.point("ended")
        else:
            log.info("%s: its helper %s is gone", vm.title, process.title)
            self._pinner.attend(vm)
        self.settle(vm)

    def _claimant_ended(self, vm: GuardedVm) -> None:
        # What the hook sent before it ended lies in its connection's queue: let the loop read that first.
        self._forget_claimant(vm)
        self._loop.call_in(0.0, lambda: self.settle(vm))

    def _forget_claimant(self, vm: GuardedVm) -> None:
        if vm.claimant >= 0:
            self._loop.unwatch(vm.claimant)
            os.close(vm.claimant)
            vm.claimant = -1

    # -- letting go -------------------------------------------------------------------------------------------------

    def _release(self, vm: GuardedVm, why: str) -> None:
        vm.move(State.RELEASING, why)
        self._forget_claimant(vm)
        self._pinner.forget(vm)
        self._registry.save(vm)
        names: dict[int, list[str]] = {}
        for file in vm.files:
            names.setdefault(file.key[0], []).append(vm.store_name(file))
        waiting = _by_device(vm.files)
        if not waiting:
            self._released(vm)
        for device, fds in list(waiting.items()):
            self._workers.run(
                device,
                f"release {vm.title}",
                lambda fds=fds, device=device: let_go(fds, names[device]),  # type: ignore[misc]
                lambda problem, device=device: self._device_released(vm, waiting, device, problem),  # type: ignore[misc]
            )

    def _device_released(self, vm: GuardedVm, waiting: dict[int, list[int]], device: int, problem: object) -> None:
        if isinstance(problem, Exception):
            log.error("%s: unlocking went wrong: %s", vm.title, problem)
        waiting.pop(device, None)
        if not waiting:
            self._released(vm)

    def _released(self, vm: GuardedVm) -> None:
        faults.point("release-before-state")
        self._registry.remove(vm)
        faults.point("released")
        log.info("%s: released", vm.title)
        self._mark_released(vm, vm.files)
        for callback in vm.when_released:
            callback()


def _ignore(result: object) -> None:
    if isinstance(result, Exception):
        log.error("closing a refused claim went wrong: %s", result)


def _by_device(files: list[GuardedFile]) -> dict[int, list[int]]:
    """The descriptors by device; they are the worker's from here on."""
    fds: dict[int, list[int]] = {}
    for file in files:
        if file.fd >= 0:
            fds.setdefault(file.key[0], []).append(file.fd)
            file.fd = -1
    return fds


def _verify(file: GuardedFile) -> None:
    """Believe the kernel, not the hook: the description must be of that file and hold these ranges."""
    info = proc.fdinfo("self", file.fd)
    if info.inode and info.inode != file.key[1]:
        raise DaemonError(f"the descriptor for {file.path} belongs to another file (inode {info.inode})")
    file.key = (mounts.devices().get(info.mount_id, file.key[0]), info.inode or file.key[1])
    exclusive = file.mode == EXCLUSIVE
    locked: list[Range] = [(start, length) for write, start, length in proc.lock_ranges(info) if write or not exclusive]
    for piece in [FOOTHOLD] if file.foothold else file.pieces:
        if not covers(locked, piece):
            raise DaemonError(f"the descriptor for {file.path} does not hold the lock that was claimed")
