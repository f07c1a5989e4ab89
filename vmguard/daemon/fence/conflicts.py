"""What is done to a VM that writes to a file whose lock somebody else has: reported first, then frozen or killed.

A VM gets there without its hook, or with a disk that was plugged in later. When it is found, two may have written to
one disk already; whoever stops first limits the damage. Freezing loses nothing: a person may still choose which of the
two is to go on (``vmguard adopt`` lets the frozen one go on, once the other has let go of the disk).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from vmguard.adapters.linux import clock, pidfd
from vmguard.config.choices import OnConflict
from vmguard.config.settings import Unguarded
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.retry import RetryAt, RetryNever
from vmguard.daemon.pin.lock_transfer import Rival
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.conflict")

#: seconds between two looks at a VM that was frozen: a SIGCONT from elsewhere must not set it free for long
_HOLD = 1.0
#: seconds between two tries of a VM whose memory still comes from another host
_INCOMING = 0.5


class Conflicts:
    """Told by the pinner; acts in the loop's thread, by pidfd."""

    def __init__(self, loop: Loop, registry: Registry, pinner: Pinner, settings: Callable[[], Unguarded]) -> None:
        self._loop = loop
        self._registry = registry
        self._pinner = pinner
        self._settings = settings
        #: VMs whose grace is counted, and those for which it is over
        self._counted: set[str] = set()
        self._due: set[str] = set()
        pinner.on_conflict = self.meet

    def meet(self, vm: GuardedVm, file: GuardedFile, rival: Rival) -> None:
        """Somebody else has the exclusive lock of a file that the VM writes to."""
        action = self._settings().action
        if vm.state is State.INCOMING:
            file.guard.retry_when(RetryAt(clock.boottime() + _INCOMING))
            return
        who = self._name(vm, file, rival)
        if action is OnConflict.IGNORE:
            return
        file.guard.conflict_with(who)
        sentence = f"writes to {file.path}, which is {who}"
        if vm.state is State.RUNNING:
            log.error("CRITICAL: %s (pid %d) %s. %s", vm.title, vm.pid, sentence, _WHAT[action])
            vm.move(State.CONFLICT, sentence)
        if action is OnConflict.FENCE or vm.id in self._due:
            self._kill(vm, sentence)
        elif action is OnConflict.FREEZE:
            file.guard.retry_when(RetryNever())
            self._stop(vm, sentence)
        self._registry.save(vm)

    def _name(self, vm: GuardedVm, file: GuardedFile, rival: Rival) -> str:
        here = [other.title for other in self._registry.holder_of(file.key) if other is not vm]
        return f"locked by {', '.join(here)} of this host" if here else rival.sentence

    # -- acting -----------------------------------------------------------------------------------------------------

    def _stop(self, vm: GuardedVm, why: str) -> None:
        vm.stopped = why
        self._hold(vm)
        grace = self._settings().fence_after
        if grace and vm.id not in self._counted:
            self._counted.add(vm.id)
            log.error(
                "%s is frozen; it is killed in %.0f s if the disk is still locked elsewhere then", vm.title, grace
            )
            self._loop.call_in(grace, lambda: self._grace_is_over(vm))

    def _hold(self, vm: GuardedVm) -> None:
        if not self._stands(vm) or not vm.stopped:
            return
        for fd in vm.pidfds:
            pidfd.send(fd, signal.SIGSTOP)
        self._loop.call_in(_HOLD, lambda: self._hold(vm))

    def _grace_is_over(self, vm: GuardedVm) -> None:
        """Ask once more before the kill: the other one may have ended in the meantime."""
        if self._stands(vm) and vm.stopped and any(file.guard.state is GuardState.CONFLICT for file in vm.files):
            self._due.add(vm.id)
            self._pinner.try_again(vm)
        else:
            self._counted.discard(vm.id)

    def _kill(self, vm: GuardedVm, why: str) -> None:
        log.error("%s (pid %d) is killed: it %s", vm.title, vm.pid, why)
        vm.fencing = vm.fencing or why
        self._forget(vm)
        for fd in vm.pidfds:
            pidfd.send(fd, signal.SIGKILL)

    # -- the end of a conflict --------------------------------------------------------------------------------------

    def solved(self, vm: GuardedVm) -> None:
        """A file was pinned: perhaps it was the last one that was missing."""
        if vm.state is not State.CONFLICT or any(file.guard.state is GuardState.CONFLICT for file in vm.files):
            return
        self._forget(vm)
        if vm.stopped:
            log.error(
                "%s: nobody else has its disks any more. It stays frozen, because the disks may have changed under it: "
                "vmguard adopt %s lets it go on, or end it",
                vm.title,
                vm.name,
            )
            return
        log.warning("%s: nobody else has its disks any more", vm.title)
        vm.move(State.RUNNING, "nobody else has its disks any more")
        self._registry.save(vm)

    def let_go_on(self, vm: GuardedVm) -> None:
        """A person wants it to run. It does, once all its disks are its own."""
        if vm.state is not State.CONFLICT or any(file.guard.state is GuardState.CONFLICT for file in vm.files):
            return
        log.warning("%s goes on: it was adopted, and all its disks are its own", vm.title)
        vm.stopped = ""
        vm.move(State.RUNNING, "adopted after a conflict")
        self._registry.save(vm)
        for fd in [] if vm.frozen else vm.pidfds:
            pidfd.send(fd, signal.SIGCONT)

    def _stands(self, vm: GuardedVm) -> bool:
        return vm.state is State.CONFLICT and self._registry.get(vm.id) is vm

    def _forget(self, vm: GuardedVm) -> None:
        self._counted.discard(vm.id)
        self._due.discard(vm.id)


_WHAT = {
    OnConflict.FREEZE: "It is frozen",
    OnConflict.FENCE: "It is killed",
    OnConflict.REPORT: "Nothing is done about it (unguarded.action: report)",
}
