"""Track files that a VM writes to although another holder has their lock; the watchdog decides what to do.

A VM gets into conflict without its hook, or with a disk that was plugged in later. By the time it is found, two writers
may have written to one disk; stopping one of them limits the damage. Freezing loses nothing: a person can still choose
which of the two continues (``vmguard adopt`` lets the frozen one continue, once the other has released the disk).
"""

from __future__ import annotations

from collections.abc import Callable

from vmguard.adapters.linux import proc
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.retry import RetryAt, RetryNever
from vmguard.core.watchdog.events import Event, Rival, RivalMet
from vmguard.core.watchdog.policy import OnConflict, Policy
from vmguard.daemon.pin.lock_transfer import RivalLock
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry

#: retry interval of a VM whose memory still comes from another host
_INCOMING_RETRY_S = 0.5


class Conflicts:
    """The files in conflict, as the pinner reports them and the watchdog judges them."""

    def __init__(
        self,
        registry: Registry,
        policy: Callable[[GuardedVm], Policy],
        tell: Callable[[GuardedVm], None],
        feed: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        """``tell`` has the watchdog look at a VM now, ``feed`` gives it an event, ``now`` is the loop's clock."""
        self._registry = registry
        self._policy = policy
        self._tell = tell
        self._feed = feed
        self._now = now

    def meet(self, vm: GuardedVm, file: GuardedFile, rival: RivalLock) -> None:
        """Record that another holder has the exclusive lock of a file that the VM writes to, and tell the watchdog."""
        if vm.state is State.INCOMING:
            file.guard.retry_when(RetryAt(self._now() + _INCOMING_RETRY_S))
            return
        if self._policy(vm).on_conflict is OnConflict.IGNORE or _is_helpers(vm, file):
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
        """Persist that only a person can let the VM continue, and take no lock for it meanwhile.

        If a frozen VM took the lock once its rival stops, it would lock out the rightful owner's next start.
        """
        vm.held_for_person = why
        for file in vm.files:
            if file.guard.state is GuardState.CONFLICT:
                file.guard.retry_when(RetryNever())
        self._registry.save(vm)

    def end(self, vm: GuardedVm) -> None:
        """End a conflict on the watchdog's order: the VM needs nobody's permission to run any more."""
        vm.held_for_person = ""
        if vm.state is State.CONFLICT and not any(file.guard.state is GuardState.CONFLICT for file in vm.files):
            vm.move(State.RUNNING, "nobody else has its disks any more")
        self._registry.save(vm)

    def _name(self, vm: GuardedVm, file: GuardedFile, rival: RivalLock) -> str:
        here = [other.title for other in self._registry.holder_of(file.key) if other is not vm]
        return f"locked by {', '.join(here)} of this host" if here else rival.sentence


def _is_helpers(vm: GuardedVm, file: GuardedFile) -> bool:
    """Return whether the lock is that of a process which only says that it helps the VM: such a one stops no VM."""
    certain = vm.vouched
    return any(proc.excludes_others(process.pid, file.key) for process in vm.processes if process not in certain)
