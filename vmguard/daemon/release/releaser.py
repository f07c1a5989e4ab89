"""Release a VM's locks on proof: its processes are dead, its files are closed, its last writes have drained.

Everything here runs in the loop's thread and never touches the share. Unlocking and closing are done by the file
system's storage thread; a child process waits for the last writes.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence

from vmguard import faults
from vmguard.adapters import hypervisors
from vmguard.adapters.linux import proc, standing, systemd
from vmguard.adapters.linux.proc import OpenFile
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

log = logging.getLogger("vmguard.release")

#: interval of the checks of a claim whose proof is missing
_RETRY_S = 0.5


class Releaser:
    """The judge of claims without a running QEMU."""

    def __init__(
        self,
        loop: Loop,
        threads: StorageThreads,
        registry: Registry,
        pinner: Pinner,
        mark_released: MarkReleased,
        qemu_users: Callable[[], frozenset[int]],
    ) -> None:
        """``qemu_users``: the users that the hypervisors run their QEMU as."""
        self._loop = loop
        self._threads = threads
        self._registry = registry
        self._pinner = pinner
        self._mark_released = mark_released
        self._qemu_users = qemu_users
        self._file_users = FileUsers(threads, lambda: {os.getpid(), *systemd.keepers()})

    def settle(self, vm: GuardedVm) -> None:
        """Decide about a claim without a running QEMU: release it on proof, else check again soon."""
        if vm.looking or not self._is_open(vm):
            return
        # A file that is only shared may be open in other VMs: dozens of them can share a template.
        own = {file.key for file in vm.files if file.mode == EXCLUSIVE}
        vm.looking = True
        self._file_users.ask(own, functools.partial(self._judge, vm))

    def discard(self, files: Sequence[GuardedFile]) -> None:
        """Unlock and close descriptors that never became a VM's."""
        for device, fds in _take_descriptors(files, "its claim was refused").items():
            self._threads.run(device, "close a refused claim", functools.partial(let_go, fds), _report)

    def close(self, fds: Sequence[int]) -> None:
        """Close copies that are not wanted, and leave the locks to those who hold them.

        Also a close that is not the last one may hang with the storage (adapters/linux/systemd.py).
        """
        for fd in fds:
            device, _ = proc.own_key(fd)
            self._threads.run(device, "close what was not wanted", functools.partial(os.close, fd), _report)

    def forget_claimant(self, vm: GuardedVm) -> None:
        """Stop following the hook that made the claim."""
        if vm.claimant >= 0:
            self._loop.unwatch(vm.claimant)
            os.close(vm.claimant)
            vm.claimant = -1

    # -- proof ------------------------------------------------------------------------------------------------------

    def _is_open(self, vm: GuardedVm) -> bool:
        """Return whether the claim's end is still to be decided, and nothing is under way for it."""
        decided = vm.state in (*LIVING, State.RELEASING)
        return not decided and not vm.draining and self._registry.get(vm.id) is vm

    def _settle_soon(self, vm: GuardedVm) -> None:
        self._loop.call_in(_RETRY_S, functools.partial(self.settle, vm))

    def _judge(self, vm: GuardedVm, users: object) -> None:
        """Decide once the files' users are known: a list of OpenFile, or the exception that hid them."""
        vm.looking = False
        if not self._is_open(vm):
            return
        if self._pinner.has_in_hand(vm):
            self._settle_soon(vm)
            return
        names = None
        if isinstance(users, list):
            qemu_users = self._qemu_users()
            users = [user for user in users if _may_write(vm, user, qemu_users)]
            helpers_left = {process.title for process in vm.vouched}
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
        """Have a child process wait for the last write. Until then our copies turn a stale write into EIO."""
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
            log.error("%s: cannot prove that its writes have drained: %s", vm.title, problem)
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
            log.error("%s: unlocking failed: %s", vm.title, problem)
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


def _may_write(vm: GuardedVm, user: OpenFile, qemu_users: frozenset[int]) -> bool:
    """Return whether a process that has a file of the VM open may write to it, now or later.

    QEMU opens a file for reading first, and anew when it writes, so whoever may be the VM's QEMU counts. A process of
    an ordinary user's, or of another VM, that only reads keeps no VM from its next start.
    """
    found = standing.of(user.pid)
    if user.info.writable or found is None:
        return True
    if found.scope is not None:
        return hypervisors.by_name(vm.hypervisor).is_scope_of(found.scope, vm.name, vm.uuid)
    return not found.users.isdisjoint({standing.ROOT, *qemu_users})


def _report(result: object) -> None:
    if isinstance(result, Exception):
        log.error("closing a refused claim failed: %s", result)


def _take_descriptors(files: Sequence[GuardedFile], why: str) -> dict[int, list[int]]:
    """End the guards; return their descriptors by device. The storage threads own them from here on."""
    fds: dict[int, list[int]] = {}
    for file in files:
        descriptor = file.guard.closed(why)
        if descriptor is not None:
            fds.setdefault(file.key[0], []).append(descriptor)
    return fds
