"""Take over the disks of a VM that migrates to this host.

A hypervisor runs the target's hooks while the source's guest still writes, and reports nothing at the switch. So:

1. ``migrate begin`` (libvirt) or PVE_MIGRATED_FROM (Proxmox) announces the VM. Its claim finds the disks locked and
   takes only the reservation byte, which every claim leaves free. From then on no third host can claim 0-EOF.
2. QEMU waits for the VM's memory: the VM is INCOMING. No lock is tried yet. If the migration fails now, the source must
   find its lock untouched, even if its QEMU has reopened the disks (block/file-posix.c, auto-read-only: QEMU closes the
   locked descriptor at the switch, and opens a writable one again if the migration fails).
3. The guest runs here: there is no way back. Every 20 ms the lock is tried on the descriptor with the reservation; the
   source unlocks once its QEMU has closed the disks. When the last file is locked, the VM is RUNNING and gets pinned.

A guest that runs without its lock for longer than ``migration.deadline`` is a conflict (conflicts.py). A guest that
does not run (``--paused``) gets the lock once nobody has held it for a few seconds.

Not chosen: a blocking lock request, which waits in the kernel for a callback of the server. The reservation keeps
everybody else out, so it would gain nothing, and a lost callback costs 30 s (fs/nfs/nfs4proc.c, nfs4_retry_setlk).
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

log = logging.getLogger("vmguard.claim")

#: interval of the polls of an incoming VM while its vCPUs sleep
_IDLE_POLL_S = 0.05
#: the same once they have worked, or its locks are being taken
_POLL_S = 0.02
#: interval of the checks whether its disks are free
_FREE_CHECK_S = 1.0
#: interval of the counts of its vCPUs: QEMU may still be creating them
_VCPU_COUNT_S = 1.0
#: consecutive checks that must find the disks free: at the switch the source unlocks for a moment, and locks again if
#: the migration fails
_FREE_CHECKS = 3
#: a guest runs once this many polls have seen its vCPUs busy...
_BUSY_POLLS = 3
#: ...for this much CPU time in all: the setup of a vCPU at the end of a migration takes less
_BUSY_CPU_S = 0.003
#: an attempt to lock that takes longer is slow storage, not a source that holds the lock
_HANGS_S = 1.0


@dataclass
class _Arrival:
    """One incoming VM."""

    vm: GuardedVm
    #: time of the last poll
    polled: float
    vcpus: Vcpus | None = None
    #: when the vCPUs are to be counted again
    count_at: float = 0.0
    #: CPU time of the vCPUs at the last poll; negative: not known
    cpu_s: float = -1.0
    #: polls that saw the vCPUs busy, and their CPU time
    busy_polls: int = 0
    busy_cpu_s: float = 0.0
    #: its locks are being taken: its guest runs here, or nobody holds its disks
    taking: bool = False
    runs: bool = False
    #: seconds for which it ran without its lock while the storage answered
    waited: float = 0.0
    #: start of the attempt to lock that is under way; 0: none is
    trying: float = 0.0
    #: the last attempt met an exclusive lock; a reader (the source of a post-copy migration) does no harm
    rival: bool = True
    #: a check whether its disks are free is under way
    checking: bool = False
    check_at: float = 0.0
    #: consecutive checks that found them free
    free_checks: int = 0

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
        """``tell`` makes the watchdog look at a VM now, ``feed`` gives it an event."""
        self._loop = loop
        self._threads = threads
        self._registry = registry
        self._pinner = pinner
        self._conflicts = conflicts
        self._command_lines = command_lines
        self._settings = settings
        self._tell = tell
        self._feed = feed
        #: announced VMs, and when each announcement expires
        self._announced: dict[str, float] = {}
        #: incoming VMs that are being polled
        self._followed: dict[str, GuardedVm] = {}

    def resume(self) -> None:
        """Follow the VMs that were incoming when an earlier daemon ended."""
        for vm in self._registry:
            self.follow(vm)

    # -- announcements ----------------------------------------------------------------------------------------------

    def announce(self, vm_id: str) -> None:
        """Note that this VM is about to migrate to this host, as its hypervisor says."""
        now = self._loop.now()
        self._announced = {known: until for known, until in self._announced.items() if until > now}
        self._announced[vm_id] = now + self._settings().pending

    def is_announced(self, vm_id: str) -> bool:
        """Return whether the next start of a VM was announced as a migration. An announcement is good for one start."""
        return self._announced.pop(vm_id, 0.0) > self._loop.now()

    # -- following --------------------------------------------------------------------------------------------------

    def follow(self, vm: GuardedVm) -> None:
        """Follow an incoming VM whose QEMU is known, until all its disks are locked here."""
        if vm.state is not State.INCOMING or self._followed.get(vm.id) is vm:
            return
        self._followed[vm.id] = vm
        log.info("%s: migrating here from %s, which still holds its disks", vm.title, vm.incoming)
        arrival = _Arrival(vm, self._loop.now())
        if any(file.guard.is_reserved for file in vm.files):
            self._command_lines.ask(Lane.NAMED, vm.pid, functools.partial(self._judge, vm))
        self._poll(arrival)

    def _judge(self, vm: GuardedVm, line: CommandLine | None) -> None:
        """Refuse a QEMU whose arguments show that it boots instead of waiting for a VM's memory."""
        if line is None or vm.state is not State.INCOMING or vm.main is None or vm.main.started != line.started:
            return
        if line.arguments and not identity(line.arguments).incoming:
            self._refuse(vm)

    def pinned(self, vm: GuardedVm, file: GuardedFile) -> None:
        """Move the VM to RUNNING if the file that was just locked was the last one."""
        if vm.state is not State.INCOMING:
            return
        written = [other for other in vm.files if other.mode == EXCLUSIVE]
        if written and all(other.guard.is_locked for other in written):
            source, vm.incoming = vm.incoming, ""
            vm.move(State.RUNNING, f"migrated here from {source}; all its disks are locked here")
            self._registry.save(vm)

    def _poll(self, arrival: _Arrival) -> None:
        vm = arrival.vm
        if vm.state is not State.INCOMING or self._registry.get(vm.id) is not vm:
            arrival.forget_vcpus()
            if self._followed.get(vm.id) is vm:
                del self._followed[vm.id]
            return
        now = self._loop.now()
        passed, arrival.polled = now - arrival.polled, now
        if not arrival.runs and self._runs(arrival):
            arrival.runs = arrival.taking = True
            arrival.forget_vcpus()
            log.info("%s: its guest runs here", vm.title)
        if arrival.taking:
            self._take(arrival)
        elif now >= arrival.check_at:
            self._check_free(arrival)
        hangs = arrival.trying and now - arrival.trying > _HANGS_S
        if arrival.runs and arrival.rival and not vm.frozen and not hangs:
            arrival.waited += passed
        if arrival.waited >= self._settings().deadline:
            self._overdue(vm, "runs here")
            return
        pause = _POLL_S if arrival.taking or arrival.busy_polls else _IDLE_POLL_S
        self._loop.call_in(max(pause, 0.001 * len(arrival.vcpus or ())), lambda: self._poll(arrival))

    def _runs(self, arrival: _Arrival) -> bool:
        """Return whether its vCPUs have been seen at work."""
        if not arrival.vcpus or arrival.polled >= arrival.count_at:
            arrival.forget_vcpus()
            arrival.vcpus, arrival.cpu_s = Vcpus(arrival.vm.pid), -1.0
            arrival.count_at = arrival.polled + _VCPU_COUNT_S
        before, arrival.cpu_s = arrival.cpu_s, arrival.vcpus.busy()
        if 0 <= before < arrival.cpu_s:
            arrival.busy_polls += 1
            arrival.busy_cpu_s += arrival.cpu_s - before
        return arrival.busy_polls >= _BUSY_POLLS and arrival.busy_cpu_s >= _BUSY_CPU_S

    def _take(self, arrival: _Arrival) -> None:
        """Try to lock the next reserved file, through our own descriptor; the pin follows at once."""
        wanted: list[tuple[GuardedFile, int]] = []
        for file in arrival.vm.files:
            descriptor = file.guard.descriptor
            if file.guard.is_reserved and descriptor is None:  # an earlier daemon took it with it
                file.guard.retry_when(file.guard.retry.no_later_than(arrival.polled))
            elif file.guard.is_reserved and descriptor is not None:
                wanted.append((file, descriptor))
        if arrival.trying or not wanted:
            return
        arrival.trying = arrival.polled
        file, descriptor = wanted[0]
        fd = os.dup(descriptor)
        self._threads.run(
            file.key[0],
            f"lock {file.path} of an incoming VM",
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

    def _check_free(self, arrival: _Arrival) -> None:
        """Check whether anybody still holds the disks that we have reserved."""
        reserved = [file for file in arrival.vm.files if file.guard.is_reserved]
        reservations = [(fd, file.pieces) for file in reserved if (fd := file.guard.descriptor) is not None]
        if arrival.checking or not reservations:
            return
        arrival.checking = True
        arrival.check_at = arrival.polled + _FREE_CHECK_S
        device = reserved[0].key[0]
        self._threads.run(
            device,
            f"check whether the disks of {arrival.vm.title} are free",
            lambda: all(_is_free(fd, pieces) for fd, pieces in reservations),
            lambda free: self._checked(arrival, free),
        )

    def _checked(self, arrival: _Arrival, free: object) -> None:
        arrival.checking = False
        arrival.free_checks = arrival.free_checks + 1 if free is True else 0
        if arrival.free_checks >= _FREE_CHECKS and not arrival.taking:
            log.info("%s: nobody holds its disks any more, and its guest does not run", arrival.vm.title)
            arrival.taking = True

    # -- guests that must not run -------------------------------------------------------------------------------------

    def _refuse(self, vm: GuardedVm) -> None:
        """Have a QEMU fenced that boots although its hook let it in as a migration.

        It is not frozen: libvirt would wait for a QEMU that does not answer, and a guest that is only booting loses
        nothing.
        """
        self._tell(vm)
        why = "it was announced as a migration and boots instead"
        self._feed(StartRefused(self._loop.now(), vm.id, why))

    def _overdue(self, vm: GuardedVm, how: str) -> None:
        source, vm.incoming = vm.incoming or ANOTHER_HOST, ""
        log.error("CRITICAL: %s (pid %d) %s while %s still holds its disks", vm.title, vm.pid, how, source)
        vm.move(State.RUNNING, f"it {how} while {source} still holds its disks")
        for file in vm.files:
            if file.mode == EXCLUSIVE and not file.guard.is_locked:
                file.guard.retry_when(RetryNow())
                self._conflicts.meet(vm, file, RivalLock(True, (source,)))
        self._registry.save(vm)


def _lock(fd: int, file: GuardedFile, now: Callable[[], float]) -> float | bool:
    """Try to lock a file, in its storage thread, through ``fd``, which is closed.

    Return when the request was sent that got the lock; without the lock, whether somebody holds it exclusively.
    """
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
        ofd.close(fd)


def _is_free(fd: int, pieces: list[Range]) -> bool:
    """Return whether nobody holds a disk, counting a source that left it to us and lives: its migration may fail."""
    return all(ofd.conflict(fd, ofd.WRITE, piece) is None for piece in [*pieces, OUTGOING_MARK])
