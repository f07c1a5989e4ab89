"""Lets go of a VM's locks on proof: its processes are dead, its files are closed, its last writes are through.

Everything here runs in the loop's thread and never touches the share: unlocking and closing go to the file system's
worker, the wait for the last writes to a process of its own.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence

from vmguard import faults
from vmguard.adapters.linux import proc, systemd
from vmguard.core.locks.claim_states import LIVING, ReleaseEvidence, ReleaseStep, State, decide_release
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.daemon.owner_records.mark_released import MarkReleased
from vmguard.daemon.pin.lock_transfer import let_go
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.release.file_users import FileUsers
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads

log = logging.getLogger("vmguard.keeper")

#: between two examinations of a claim whose proof is missing
_AGAIN_S = 0.5


class Releaser:
    """Examines claims without a living QEMU, and releases them."""

    def __init__(
        self, loop: Loop, threads: StorageThreads, registry: Registry, pinner: Pinner, mark_released: MarkReleased
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._registry = registry
        self._pinner = pinner
        self._mark_released = mark_released
        self._file_users = FileUsers(threads, lambda: {os.getpid(), *systemd.keepers()})

    def settle(self, vm: GuardedVm) -> None:
        """Decide about a claim without a living QEMU: release it on proof, else examine it again soon."""
        if vm.looking or not self._is_open(vm):
            return
        # A file that is only shared may well be open in another VM: a template is in dozens of them.
        own = {file.key for file in vm.files if file.mode == EXCLUSIVE}
        vm.looking = True
        self._file_users.ask(own, functools.partial(self._judge, vm))

    def discard(self, files: Sequence[GuardedFile]) -> None:
        """Let go of descriptors that never became a VM's."""
        for device, fds in _take_descriptors(files, "its claim was refused").items():
            self._threads.run(device, "close a refused claim", functools.partial(let_go, fds), _report)

    def forget_claimant(self, vm: GuardedVm) -> None:
        """Stop following the hook that made the claim."""
        if vm.claimant >= 0:
            self._loop.unwatch(vm.claimant)
            os.close(vm.claimant)
            vm.claimant = -1

    # -- proof ------------------------------------------------------------------------------------------------------

    def _is_open(self, vm: GuardedVm) -> bool:
        """Return whether there is anything to decide now."""
        decided = vm.state in (*LIVING, State.RELEASING)
        return not decided and not vm.draining and self._registry.get(vm.id) is vm

    def _settle_soon(self, vm: GuardedVm) -> None:
        self._loop.call_in(_AGAIN_S, functools.partial(self.settle, vm))

    def _judge(self, vm: GuardedVm, users: object) -> None:
        """Decide, now that the files' users are known: a list of OpenFile, or the exception that hid them."""
        vm.looking = False
        if not self._is_open(vm):
            return
        if self._pinner.has_in_hand(vm):
            self._settle_soon(vm)
            return
        names = None
        if isinstance(users, list):
            helpers_left = {process.title for process in vm.processes}
            names = tuple(sorted({f"{proc.name(user.pid)} (pid {user.pid})" for user in users} | helpers_left))
        evidence = ReleaseEvidence(
            claimant_alive=vm.claimant >= 0 and not proc.is_dead(vm.claimant),
            start_is_over=vm.start_is_over,
            users=names,
            drained=vm.drained or (vm.state is not State.ENDED and not vm.rebuilt),
        )
        action, why = decide_release(vm.state, evidence)
        if action is ReleaseStep.RELEASE:
            self._release(vm, why)
            return
        if why != vm.why:
            log.info("%s: not released: %s", vm.title, why)
            vm.why = why
        if action is ReleaseStep.DRAIN:
            self._drain(vm)
        else:
            self._settle_soon(vm)

    def _drain(self, vm: GuardedVm) -> None:
        """Keep our copies, which turn a stale write into EIO, until another process has seen the last one through."""
        if vm.draining:
            return

        def drained(status: int) -> None:
            vm.draining = False
            vm.drained = status == 0
            faults.point("drained")
            self.settle(vm)

        words, fds = [], []
        for file in vm.files:
            descriptor = file.guard.descriptor
            if file.mode == EXCLUSIVE and descriptor is not None:
                words.append(str(descriptor))
                fds.append(descriptor)
            elif file.mode == EXCLUSIVE:
                words.append(f"{file.key[1]}:{file.real or file.path}")
        if not words:
            drained(0)
            return
        vm.draining = True
        try:
            subprocesses.start(self._loop, "drain", drained, words=words, fds=fds)
        except (OSError, MemoryError) as problem:
            vm.draining = False
            log.error("%s: cannot prove that its writes are through: %s", vm.title, problem)
            self._settle_soon(vm)

    # -- release ----------------------------------------------------------------------------------------------------

    def _release(self, vm: GuardedVm, why: str) -> None:
        vm.move(State.RELEASING, why)
        self.forget_claimant(vm)
        self._pinner.forget(vm)
        self._registry.save(vm)
        names: dict[int, list[str]] = {}
        for file in vm.files:
            names.setdefault(file.key[0], []).append(vm.store_name(file))
        waiting = _take_descriptors(vm.files, why)
        if not waiting:
            self._released(vm)
        for device, fds in list(waiting.items()):
            self._threads.run(
                device,
                f"release {vm.title}",
                functools.partial(let_go, fds, names[device]),
                functools.partial(self._device_released, vm, waiting, device),
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


def _report(result: object) -> None:
    if isinstance(result, Exception):
        log.error("closing a refused claim went wrong: %s", result)


def _take_descriptors(files: Sequence[GuardedFile], why: str) -> dict[int, list[int]]:
    """End the guards; return their descriptors by device, which are the worker's from here on."""
    fds: dict[int, list[int]] = {}
    for file in files:
        descriptor = file.guard.closed(why)
        if descriptor is not None:
            fds.setdefault(file.key[0], []).append(descriptor)
    return fds
