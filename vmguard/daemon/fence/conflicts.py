"""Keep the books of files that a VM writes to although somebody else has their lock; the watchdog decides.

A VM gets there without its hook, or with a disk that was plugged in later. When it is found, two may have written to
one disk already; whoever stops first limits the damage. Freezing loses nothing: a person may still choose which of the
two is to go on (``vmguard adopt`` lets the frozen one go on, once the other has let go of the disk).
"""

from __future__ import annotations

from collections.abc import Callable

from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.retry import RetryAt, RetryNever
from vmguard.core.watchdog.events import Event, Rival, RivalMet
from vmguard.core.watchdog.policy import OnConflict, Policy
from vmguard.daemon.pin.lock_transfer import RivalLock
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry

#: between two tries of a VM whose memory still comes from another host
_INCOMING_RETRY_S = 0.5


class Conflicts:
    """Files in conflict: told by the pinner, passed on to the watchdog."""

    def __init__(
        self,
        registry: Registry,
        policy: Callable[[GuardedVm], Policy],
        tell: Callable[[GuardedVm], None],
        feed: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        """``tell``: have the watchdog look at a VM now. ``feed``: have it take in an event."""
        self._registry = registry
        self._policy = policy
        self._tell = tell
        self._feed = feed
        self._now = now

    def meet(self, vm: GuardedVm, file: GuardedFile, rival: RivalLock) -> None:
        """Take in that the exclusive lock of a file that the VM writes to belongs to somebody else."""
        if vm.state is State.INCOMING:
            file.guard.retry_when(RetryAt(self._now() + _INCOMING_RETRY_S))
            return
        if self._policy(vm).on_conflict is OnConflict.IGNORE:
            return
        name = self._name(vm, file, rival)
        file.guard.conflict_with(name)
        if vm.state is State.RUNNING:
            vm.move(State.CONFLICT, f"writes to {file.path}, which is {name}")
        if vm.held_for_person:
            file.guard.retry_when(RetryNever())
        self._registry.save(vm)
        self._tell(vm)
        self._feed(RivalMet(self._now(), vm.id, Rival(file.path, name)))

    def hold(self, vm: GuardedVm, why: str) -> None:
        """Persist that only a person lets the VM go on, and take no lock for it meanwhile.

        A frozen VM that took the lock once its rival stops would shut out the rightful owner's next start.
        """
        vm.held_for_person = why
        for file in vm.files:
            if file.guard.state is GuardState.CONFLICT:
                file.guard.retry_when(RetryNever())
        self._registry.save(vm)

    def end(self, vm: GuardedVm) -> None:
        """The watchdog says that the conflict is over, and that nobody has to let the VM go on (any more)."""
        vm.held_for_person = ""
        if vm.state is State.CONFLICT and not any(file.guard.state is GuardState.CONFLICT for file in vm.files):
            vm.move(State.RUNNING, "nobody else has its disks any more")
        self._registry.save(vm)

    def _name(self, vm: GuardedVm, file: GuardedFile, rival: RivalLock) -> str:
        here = [other.title for other in self._registry.holder_of(file.key) if other is not vm]
        return f"locked by {', '.join(here)} of this host" if here else rival.sentence
