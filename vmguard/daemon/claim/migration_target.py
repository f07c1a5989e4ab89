"""Live migration, seen from its target: the VM is here, its disks are still the source's, and then they are ours.

A hypervisor runs the target's hooks while the source's guest still writes, and says nothing at the switch. So:

1. ``migrate begin`` (libvirt) or PVE_MIGRATED_FROM (Proxmox) announces the VM. Its claim finds the disks locked and
   takes the foothold alone, one byte that every claim leaves free: no third host's claim of 0-EOF succeeds from now on.
2. QEMU waits for the VM's memory: the VM is INCOMING. Nothing is tried yet: a migration that fails now must find the
   source's lock as it was, also when QEMU there has opened its disks anew (block/file-posix.c, auto-read-only: it
   closes the locked descriptor at the switch, and opens a writable one again when the migration fails after all).
3. The guest runs here: there is no way back. Each 20 ms the lock is tried on the descriptor that has the foothold;
   the source lets go when its QEMU has closed the disks. With the last file the VM is RUNNING, to be pinned as ever.

A guest that runs without its lock beyond ``migration.deadline`` is a conflict like any other (conflicts.py). A guest
that does not run (``--paused``) gets the lock once nobody has had it for some seconds.

Not chosen: a blocking lock request, which waits in the kernel for the server to call back. With the foothold nobody
can come first, so nothing is won by it, and a callback that is lost costs 30 s (fs/nfs/nfs4proc.c, nfs4_retry_setlk).
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.adapters.linux import ofd
from vmguard.adapters.linux.proc import CommandLine
from vmguard.adapters.linux.vcpus import Vcpus
from vmguard.config.migration import Migration
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import OUTGOING_MARK, Range
from vmguard.core.locks.retry import RetryNow
from vmguard.core.sources.process_arguments import identity
from vmguard.core.watchdog.events import Event, StartRefused
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.pin.lock_transfer import RivalLock
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import ANOTHER_HOST, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.command_lines import CommandLines, Lane
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.errors import LockConflict

log = logging.getLogger("vmguard.incoming")

#: seconds between two looks at a VM that comes in, while its vCPUs sleep and then, and between two questions whether
#: its disks are free
_ASLEEP, _LOOK, _ASK = 0.05, 0.02, 1.0
#: seconds after which its vCPUs are counted again: QEMU may just have been making them
_COUNT = 1.0
#: answers in a row that must say so: at the switch the source lets go for a moment, and takes its lock up again if
#: the migration fails
_FREE_ENOUGH = 3
#: a guest runs when its vCPUs were busy in so many looks, for so many seconds in all: at its end a migration sets each
#: vCPU up, which takes none of them that long
_BUSY_LOOKS, _BUSY = 3, 0.003
#: seconds for which a try may be under way before it is the storage that is late, not the source
_HANGS = 1.0


@dataclass
class _Arrival:
    """One VM that comes in."""

    vm: GuardedVm
    #: when it was last scanned
    looked: float
    vcpus: Vcpus | None = None
    count_at: float = 0.0
    busy: float = -1.0
    grown: float = 0.0
    looks: int = 0
    #: its guest runs here, or nobody has its disks
    taking: bool = False
    runs: bool = False
    #: seconds for which it ran without its lock while the storage answered
    waited: float = 0.0
    #: since when a try is under way
    trying: float = 0.0
    #: the last try met a lock for writing; a reader (the source of a post-copy migration) harms nobody
    rival: bool = True
    asking: bool = False
    ask_at: float = 0.0
    free: int = 0

    def forget_vcpus(self) -> None:
        if self.vcpus is not None:
            self.vcpus.close()
        self.vcpus = None


class MigrationTarget:
    """All VMs that migrate to this host."""

    def __init__(
        self,
        loop: Loop,
        threads: StorageThreads,
        registry: Registry,
        pinner: Pinner,
        conflicts: Conflicts,
        command_lines: CommandLines,
        settings: Callable[[], Migration],
        tell: Callable[[GuardedVm], None],
        feed: Callable[[Event], None],
    ) -> None:
        """``tell``: have the watchdog look at a VM now. ``feed``: have it take in an event."""
        self._loop = loop
        self._threads = threads
        self._registry = registry
        self._pinner = pinner
        self._conflicts = conflicts
        self._command_lines = command_lines
        self._settings = settings
        self._tell = tell
        self._feed = feed
        #: VMs that were announced, and until when
        self._announced: dict[str, float] = {}
        #: VMs that are seen through
        self._followed: dict[str, GuardedVm] = {}

    def resume(self) -> None:
        """See the VMs through that came in while an earlier daemon ran."""
        for vm in self._registry:
            self.follow(vm)

    # -- announcements ----------------------------------------------------------------------------------------------

    def announce(self, vm_id: str) -> None:
        """The hypervisor says that this VM is about to migrate to this host."""
        now = self._loop.now()
        self._announced = {known: until for known, until in self._announced.items() if until > now}
        self._announced[vm_id] = now + self._settings().pending

    def is_announced(self, vm_id: str) -> bool:
        """Whether the start that comes now is that migration's; an announcement counts for one start alone."""
        return self._announced.pop(vm_id, 0.0) > self._loop.now()

    # -- following --------------------------------------------------------------------------------------------------

    def follow(self, vm: GuardedVm) -> None:
        """Its QEMU is known: see it through."""
        if vm.state is not State.INCOMING or self._followed.get(vm.id) is vm:
            return
        self._followed[vm.id] = vm
        log.info("%s: comes in from %s, which has its disks", vm.title, vm.incoming)
        arrival = _Arrival(vm, self._loop.now())
        if any(file.guard.is_reserved for file in vm.files):
            self._command_lines.ask(Lane.NAMED, vm.pid, functools.partial(self._judge, vm))
        self._look(arrival)

    def _judge(self, vm: GuardedVm, line: CommandLine | None) -> None:
        """Its arguments are known: they say whether it waits for a VM's memory at all."""
        if line is None or vm.state is not State.INCOMING or vm.main is None or vm.main.started != line.started:
            return
        if line.arguments and not identity(line.arguments).incoming:
            self._refuse(vm)

    def pinned(self, vm: GuardedVm, file: GuardedFile) -> None:
        """A file has got its lock: perhaps the last one."""
        if vm.state is not State.INCOMING:
            return
        written = [other for other in vm.files if other.mode == EXCLUSIVE]
        if written and all(other.guard.is_locked for other in written):
            source, vm.incoming = vm.incoming, ""
            vm.move(State.RUNNING, f"migrated here from {source}; all its disks are locked here")
            self._registry.save(vm)

    def _look(self, arrival: _Arrival) -> None:
        vm = arrival.vm
        if vm.state is not State.INCOMING or self._registry.get(vm.id) is not vm:
            arrival.forget_vcpus()
            if self._followed.get(vm.id) is vm:
                del self._followed[vm.id]
            return
        now = self._loop.now()
        passed, arrival.looked = now - arrival.looked, now
        if not arrival.runs and self._runs(arrival):
            arrival.runs = arrival.taking = True
            arrival.forget_vcpus()
            log.info("%s: its guest runs here", vm.title)
        if arrival.taking:
            self._take(arrival)
        elif now >= arrival.ask_at:
            self._ask(arrival)
        hangs = arrival.trying and now - arrival.trying > _HANGS
        if arrival.runs and arrival.rival and not vm.frozen and not hangs:
            arrival.waited += passed
        if arrival.waited >= self._settings().deadline:
            self._overdue(vm, "runs here")
            return
        pause = _LOOK if arrival.taking or arrival.looks else _ASLEEP
        self._loop.call_in(max(pause, 0.001 * len(arrival.vcpus or ())), lambda: self._look(arrival))

    def _runs(self, arrival: _Arrival) -> bool:
        """Whether its vCPUs have been seen at work."""
        if not arrival.vcpus or arrival.looked >= arrival.count_at:
            arrival.forget_vcpus()
            arrival.vcpus, arrival.busy = Vcpus(arrival.vm.pid), -1.0
            arrival.count_at = arrival.looked + _COUNT
        before, arrival.busy = arrival.busy, arrival.vcpus.busy()
        if 0 <= before < arrival.busy:
            arrival.looks += 1
            arrival.grown += arrival.busy - before
        return arrival.looks >= _BUSY_LOOKS and arrival.grown >= _BUSY

    def _take(self, arrival: _Arrival) -> None:
        """Try to lock what only has the foothold, through our own descriptors; the pin follows at once."""
        wanted: list[tuple[GuardedFile, int]] = []
        for file in arrival.vm.files:
            descriptor = file.guard.descriptor
            if file.guard.is_reserved and descriptor is None:  # a daemon before this one took it with it
                file.guard.retry_when(file.guard.retry.no_later_than(arrival.looked))
            elif file.guard.is_reserved and descriptor is not None:
                wanted.append((file, descriptor))
        if arrival.trying or not wanted:
            return
        arrival.trying = arrival.looked
        file, descriptor = wanted[0]
        fd = os.dup(descriptor)
        self._threads.run(
            file.key[0],
            f"lock {file.path}, which comes in",
            lambda: _lock(fd, file, self._loop.now),
            lambda granted: self._taken(arrival, file, granted),
        )

    def _taken(self, arrival: _Arrival, file: GuardedFile, granted: object) -> None:
        arrival.trying = 0.0
        if isinstance(granted, OSError):
            log.warning("%s: %s cannot be locked: %s", arrival.vm.title, file.path, granted)
        arrival.rival = granted is not False
        if not isinstance(granted, float) or file.guard.descriptor is None or not file.guard.is_reserved:
            return
        file.guard.arrived(granted)
        self._pinner.on_pinned(arrival.vm, file)
        self._take(arrival)  # the next one
        self._pinner.attend(arrival.vm)

    # -- a guest that does not run ----------------------------------------------------------------------------------

    def _ask(self, arrival: _Arrival) -> None:
        """Whether anybody still has the disks that we have a foothold on."""
        reserved = [file for file in arrival.vm.files if file.guard.is_reserved]
        footholds = [(fd, file.pieces) for file in reserved if (fd := file.guard.descriptor) is not None]
        if arrival.asking or not footholds:
            return
        arrival.asking = True
        arrival.ask_at = arrival.looked + _ASK
        device = reserved[0].key[0]
        self._threads.run(
            device,
            f"ask who has the disks of {arrival.vm.title}",
            lambda: all(_is_free(fd, pieces) for fd, pieces in footholds),
            lambda free: self._asked(arrival, free),
        )

    def _asked(self, arrival: _Arrival, free: object) -> None:
        arrival.asking = False
        arrival.free = arrival.free + 1 if free is True else 0
        if arrival.free >= _FREE_ENOUGH and not arrival.taking:
            log.info("%s: nobody has its disks any more, and its guest does not run", arrival.vm.title)
            arrival.taking = True

    # -- what must not run --------------------------------------------------------------------------------------------

    def _refuse(self, vm: GuardedVm) -> None:
        """Have a QEMU fenced that boots anew although its hook let it in as a migration, as the hook would have.

        Not frozen: libvirt would wait for a QEMU that does not answer, and nothing is lost that has not begun.
        """
        self._tell(vm)
        why = "it was announced as a migration and starts anew"
        self._feed(StartRefused(self._loop.now(), vm.id, why))

    def _overdue(self, vm: GuardedVm, how: str) -> None:
        source, vm.incoming = vm.incoming or ANOTHER_HOST, ""
        log.error("CRITICAL: %s (pid %d) %s while %s still has its disks", vm.title, vm.pid, how, source)
        vm.move(State.RUNNING, f"it {how} while {source} still has its disks")
        for file in vm.files:
            if file.mode == EXCLUSIVE and not file.guard.is_locked:
                file.guard.retry_when(RetryNow())
                self._conflicts.meet(vm, file, RivalLock(True, (source,)))
        self._registry.save(vm)


def _lock(fd: int, file: GuardedFile, now: Callable[[], float]) -> float | bool:
    """In a worker, on a descriptor of its own. When the request was sent that got the lock; else whether somebody has
    it for writing."""
    sent = now()
    try:
        for piece in file.pieces:
            ofd.lock(fd, file.path, ofd.WRITE, piece)
        return sent
    except LockConflict:
        for piece in file.pieces:
            ofd.unlock(fd, piece)
        found = [ofd.conflict(fd, ofd.WRITE, piece) for piece in file.pieces]
        return any(conflict is not None and conflict.exclusive for conflict in found)
    finally:
        os.close(fd)


def _is_free(fd: int, pieces: list[Range]) -> bool:
    """Also of a source that has left the disk to us, but lives: the migration may still fail there."""
    return all(ofd.conflict(fd, ofd.WRITE, piece) is None for piece in [*pieces, OUTGOING_MARK])
