"""Keep every lock on the description that does the I/O: pin it, follow it, release what QEMU closed.

/proc is the truth: a description's own fdinfo lists the locks on it, so what is pinned is read off there, also after
a crash at any point. A scan costs links under /proc (scan/process_fds.py, scan/periodic.py) and no request to any
server; the moves themselves run in the file system's thread. inotify's IN_OPEN makes it quick: whenever anybody opens a
guarded file, its VM is scanned at once and for a second after (scan/burst.py), because QEMU opens a file anew before it
closes the old descriptor, and the locks that QEMU itself had on the old one stay on our copy until we close it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable

from vmguard import faults
from vmguard.adapters.linux import systemd
from vmguard.adapters.linux.proc import Key, OpenFile
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.locks.guard_states import GuardState, Origin, Pin
from vmguard.core.locks.pin import Wish, shares_writes, wish
from vmguard.core.locks.pin_step import PinStep, needs_frequent_scans, next_full_scan, next_step
from vmguard.core.locks.plan import DISK, EXCLUSIVE, SHARED
from vmguard.core.locks.ranges import Range
from vmguard.core.locks.retry import RetryNow
from vmguard.core.words import printable
from vmguard.daemon.owner_records.mark_released import MarkReleased
from vmguard.daemon.pin.backup_files import LOOK_AGAIN_S, BackupFiles
from vmguard.daemon.pin.fd_copies import FdCopies
from vmguard.daemon.pin.lock_transfer import Order, Outcome, RivalLock, carry_out, let_go
from vmguard.daemon.pin.unannounced import Unannounced
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.daemon.scan.burst import ScanBursts
from vmguard.daemon.scan.open_events import OpenEvents
from vmguard.daemon.scan.periodic import PeriodicScan
from vmguard.daemon.scan.process_fds import MountTables, ProcessFds, descriptions, has_image_locks
from vmguard.daemon.scan.settling_files import STEADY_S
from vmguard.daemon.scan.vm_scan_state import VmScanState

log = logging.getLogger("vmguard.pin")

#: from a cheap scan that found changes without an event to the full scan
_CHANGED_S = 0.25
#: from a scan that misses a file to the next one
_CLOSED_S = 0.015
#: before a pin that failed is retried
_RETRY_S = 5.0


class Pinner:
    """The pins of all running VMs."""

    def __init__(
        self,
        loop: Loop,
        threads: StorageThreads,
        registry: Registry,
        mark_released: MarkReleased,
        pieces_of: Callable[[str], list[Range]],
        interval: float,
        on_conflict: Callable[[GuardedVm, GuardedFile, RivalLock], None],
        on_pinned: Callable[[GuardedVm, GuardedFile], None],
        tables: MountTables,
        fds_of: Callable[[int], ProcessFds],
        backup_files: BackupFiles,
        trusted_folders: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``pieces_of`` returns the locked ranges by hypervisor. ``on_conflict`` is called when another holder has the
        lock of a file that a VM writes to, ``on_pinned`` for each new pin. ``fds_of`` opens a process's descriptors."""
        self._loop = loop
        self._mark_released = mark_released
        self._threads = threads
        self._registry = registry
        self._scan_states: dict[str, VmScanState] = {}
        self._open_events = OpenEvents(loop, threads, self._opened, self._look_at_all, self._guards)
        self._bursts = ScanBursts(loop, self.reconcile, self._peek)
        self.periodic_scan = PeriodicScan(loop, registry, self._glance, interval)
        self.fd_copies = FdCopies(threads, registry, self._look_at_all)
        self.tables = tables
        self.unannounced = Unannounced(tables, trusted_folders)
        self.fds_of = fds_of
        self.backup_files = backup_files
        self.pieces_of = pieces_of
        self.on_conflict = on_conflict
        self.on_pinned = on_pinned

    def start(self) -> None:
        """Begin the periodic scans."""
        self.periodic_scan.start()

    def attend(self, vm: GuardedVm) -> None:
        """Scan a VM now and for a second: its QEMU is known, or something happened to one of its files."""
        self._bursts.begin(vm)

    def try_again(self, vm: GuardedVm) -> None:
        """Retry at once what failed before."""
        for file in vm.files:
            file.guard.retry_when(RetryNow())
        self.reconcile(vm)

    def forget(self, vm: GuardedVm) -> None:
        """Stop watching the files of a VM that is gone."""
        self._open_events.forget(vm)
        self._bursts.end(vm)
        self.unannounced.forget(vm)
        state = self._scan_states.pop(vm.id, None)
        for fds in state.fds_by_pid.values() if state is not None else ():
            fds.close()

    def has_in_hand(self, vm: GuardedVm) -> bool:
        """Return whether one of the VM's locks is being moved; its descriptors must not be released meanwhile."""
        state = self._scan_states.get(vm.id)
        return state is not None and bool(state.moving)

    # -- scanning ---------------------------------------------------------------------------------------------------

    def _glance(self, vm: GuardedVm, now: float) -> None:
        """Scan a VM cheaply, and fully if anything changed; then plan one more full scan."""
        state = self._scan_states.get(vm.id)
        known = state is not None and now < state.due
        if self._peek(vm) and known:
            self._loop.call_in(_CHANGED_S, functools.partial(self.reconcile, vm))

    def _peek(self, vm: GuardedVm) -> bool:
        """Scan a VM cheaply, and fully if anything changed. Return whether a full scan ran."""
        state = self._scan_states.get(vm.id)
        if state is not None and state.nothing_new(len(vm.processes), self._loop.now()):
            return False
        self.reconcile(vm)
        return True

    def _opened(self, vm_id: str) -> None:
        vm = self._registry.get(vm_id)
        if vm is not None:
            self._bursts.event(vm)

    def _look_at_all(self) -> None:
        for state in self._scan_states.values():
            state.due = 0.0

    def _guards(self, vm: GuardedVm) -> bool:
        return vm.state in LIVING and self._registry.get(vm.id) is vm

    def reconcile(self, vm: GuardedVm) -> None:
        """Compare what the VM's processes have open with what is pinned, and order what is missing."""
        if not self._guards(vm):
            return
        open_now = self._observe(vm)
        known = {file.key: file for file in vm.files}
        for key, users in open_now.items():
            file = known.get(key)
            if file is None:
                if not self._is_steady(vm, key, users):
                    continue
                file = self.discovered(users, vm.hypervisor)
                vm.files.append(file)
                faults.point("found")
                self._loop.call_in(LOOK_AGAIN_S, functools.partial(self.backup_files.judge, vm))
                log.info("%s: opened %s, which no hook announced", vm.title, file.path)
            file.guard.seen_open()
            self._settle_file(vm, file, users)
        self.backup_files.judge(vm)
        state = self._scan_state(vm)
        state.settling.only(open_now.keys())
        self._look_for_closed(vm, [file for key, file in known.items() if key not in open_now], list(known.values()))
        now = self._loop.now()
        state.due = now if state.moving else self._next_full_scan(vm, open_now, now)

    def _look_for_closed(self, vm: GuardedVm, missed: list[GuardedFile], known: list[GuardedFile]) -> None:
        """Release the files that enough scans in a row have missed."""
        gone = [file for file in missed if file.guard.is_in_use]
        # A process that exits shows no descriptors any more, but its writes may still be under way: only one that
        # lives on has closed them.
        shown = bool(gone) and self._scan_state(vm).shows_all(len(vm.processes))
        for file in known:
            file.guard.closing.scanned(missed=shown and file in gone)
            if file.guard.closing.is_closed:
                self._closed(vm, file)
        if any(file.guard.closing.in_doubt for file in gone):
            self._loop.call_in(_CLOSED_S, functools.partial(self.reconcile, vm))

    def _next_full_scan(self, vm: GuardedVm, open_now: dict[Key, list[OpenFile]], now: float) -> float:
        """Return when a full scan is due whatever the cheap ones show, in CLOCK_BOOTTIME seconds."""
        unsettled = False
        for file in vm.files:
            written = any(user.info.writable for user in open_now.get(file.key, []))
            unsettled |= needs_frequent_scans(file.guard, file.mode, self._open_events.watches(vm, file), written)
        due = next_full_scan([file.guard for file in vm.files], unsettled, now)
        return min(due, self._scan_state(vm).settling.next_change())

    def _is_steady(self, vm: GuardedVm, key: Key, users: list[OpenFile]) -> bool:
        """Return whether an unannounced file has been open in the same way for a moment, or has our lock already."""
        if any(description.holds_some(self.pieces_of(vm.hypervisor)) for description in descriptions(users)):
            return True
        steady = self._scan_state(vm).settling.steady(key, users, self._loop.now())
        if steady is None:
            self._loop.call_in(STEADY_S, functools.partial(self.reconcile, vm))
        return bool(steady)

    def _observe(self, vm: GuardedVm) -> dict[Key, list[OpenFile]]:
        """Return what the VM's processes have open of its claim, of NFS mounts, and of disk images anywhere."""
        ours, vouched = {file.key for file in vm.files}, vm.vouched
        found: dict[Key, list[OpenFile]] = {}
        others: dict[str, str] = {}
        for process, fds in self._scan_state(vm).follow(vm.processes, self.fds_of):
            is_certain = process in vouched
            for user in fds.full(self.tables):
                self._scan_state(vm).image_locks |= is_certain and has_image_locks(user)
                if user.key in ours or (is_certain and self.unannounced.may_lock(vm, process.kind, user)):
                    found.setdefault(user.key, []).append(user)
                elif why := self.unannounced.why_other(process.kind, user):
                    others[user.path] = why
            if fds.forbidden and is_certain:
                for file in vm.files:
                    self._not_pinned(vm, file, f"the daemon may not look into {process.title} (needs CAP_SYS_PTRACE)")
        vm.note_other_mounts(others)
        return found

    def discovered(self, users: list[OpenFile], hypervisor: str = "") -> GuardedFile:
        """Return an entry for an open file that no hook announced: hot-plugged, an overlay, a copy's target."""
        file = GuardedFile.found(users, list(self.pieces_of(hypervisor)))
        if file.mode == EXCLUSIVE and (why := self.tables.why_other(file.key[0])):
            log.warning("%s is not guarded against other hosts: %s", printable(file.path), why)
        return file

    # -- pinning ----------------------------------------------------------------------------------------------------

    def _settle_file(self, vm: GuardedVm, file: GuardedFile, users: list[OpenFile]) -> None:
        """Take the next step that brings the lock onto the description that does the I/O, if one is due."""
        certain = {process.pid for process in vm.vouched}
        users = [user for user in users if user.pid in certain]
        vm.changed |= file.note_access(user.info.flags for user in users)
        found = descriptions(users)
        shareable = file.guard.is_shareable(file.mode, shares_writes(found))
        wanted = wish(found, file.pieces, shareable)
        if wanted is None or file.key in self._scan_state(vm).moving:
            return
        match next_step(file.guard, file.mode, wanted, self._keeps(vm, file), self._loop.now()):
            case PinStep.WATCH:
                self._open_events.add(vm, file)  # if it is not watched already
            case PinStep.DROP_COPY:
                self.fd_copies.drop(vm, file)
            case PinStep.PIN:
                self._order(vm, file, wanted)
            case PinStep.WAIT:
                pass

    def _keeps(self, vm: GuardedVm, file: GuardedFile) -> bool:
        """Return whether we shall keep a copy of the file's pinned description."""
        state = self._scan_state(vm)
        calm = state.settling.grown_up(file.key, self._loop.now()) and not state.image_locks
        return calm or self.fd_copies.wants(vm, file)

    def _order(self, vm: GuardedVm, file: GuardedFile, wanted: Wish) -> None:
        process = vm.process(wanted.target.pid)
        if process is None:
            return
        order = Order(
            path=file.path,
            key=file.key,
            pid=process.pid,
            pidfd=process.pidfd,
            fd=wanted.target.fd,
            mode=wanted.mode,
            pieces=tuple(file.pieces),
            source=file.guard.descriptor,
            source_mode=file.locked_mode,
            satisfied=wanted.satisfied,
            keep=self._keeps(vm, file),
            yields=file.mode == EXCLUSIVE and wanted.mode == SHARED,
        )
        self._scan_state(vm).moving.add(file.key)
        self._threads.run(
            file.key[0],
            f"pin {file.path}",
            functools.partial(carry_out, order, self._loop.now),
            functools.partial(self._moved, vm, file, wanted),
        )

    def _moved(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, result: object) -> None:
        state = self._scan_state(vm)
        state.moving.discard(file.key)
        state.due = 0.0
        if isinstance(result, Outcome) and result.done:
            self._pinned(vm, file, wanted, result)
        elif isinstance(result, Outcome) and result.rival is not None:
            self._refused(vm, file, wanted, result.rival)
        elif isinstance(result, Outcome) and result.forbidden:
            self._held(vm, file, wanted, result)
        elif isinstance(result, Exception):
            self._not_pinned(vm, file, f"the lock could not be moved: {result}")

    def _refused(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, rival: RivalLock) -> None:
        """Note that another holder has the file, and report a conflict if the VM writes to it."""
        guard = file.guard
        if rival.successor and not guard.is_reserved:
            guard.left_to_target()
            if all(other.guard.state is GuardState.OUTGOING or other.mode == SHARED for other in vm.files):
                self._bursts.forget(vm)  # there is nothing to follow until QEMU opens one of them again
        else:
            guard.not_left_after_all()
        self._not_pinned(vm, file, rival.sentence)
        claimed_shared = guard.origin in (Origin.SHARED_CLAIM, Origin.SHAREABLE)
        if claimed_shared and not rival.exclusive and file.mode == SHARED and file.role == DISK:
            guard.shared_by_writers()
        if wanted.mode == EXCLUSIVE and rival.exclusive and not rival.restored and self._guards(vm):
            self.on_conflict(vm, file, rival)

    def _held(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, outcome: Outcome) -> None:
        """Keep the lock on our own description: the kernel forbids the pin."""
        if outcome.copy is not None:
            file.mode, vm.changed = wanted.mode, True
            self.fd_copies.close(file, file.guard.held_beside(outcome.copy, outcome.forbidden))
            if systemd.may_store(outcome.copy):
                systemd.store(vm.store_name(file), outcome.copy)
            self.on_pinned(vm, file)
        self._not_pinned(vm, file, outcome.forbidden)

    def _not_pinned(self, vm: GuardedVm, file: GuardedFile, why: str) -> None:
        """Retry later; log and persist the reason when it is a new one."""
        if file.guard.not_pinned(why, self._loop.now() + _RETRY_S):
            log.warning("%s: %s is not pinned: %s", vm.title, file.path, why)
            self._registry.save(vm)

    def _pinned(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, outcome: Outcome) -> None:
        process = vm.process(wanted.target.pid)
        pin = Pin(wanted.target.pid, wanted.target.fd, process.name if process is not None else "")
        before = file.guard.pinned_on(pin, outcome.copy, outcome.granted)
        file.mode = wanted.mode
        systemd.forget(vm.store_name(file))
        self.fd_copies.close(file, before)
        faults.point("pinned-before-store")
        if outcome.copy is not None and systemd.may_store(outcome.copy):
            systemd.store(vm.store_name(file), outcome.copy)
        faults.point("pinned-before-state")
        self._registry.save(vm)
        faults.point("pinned")
        log.info("%s: %s pinned (%s) on %s", vm.title, file.path, file.mode, pin)
        self._open_events.add(vm, file)
        self.on_pinned(vm, file)

    # -- letting go -------------------------------------------------------------------------------------------------

    def _closed(self, vm: GuardedVm, file: GuardedFile) -> None:
        """End the guard of a file that a living VM has closed, on proof that its writes are complete."""
        if file.key in self._scan_state(vm).moving:
            return
        pin, descriptor = file.guard.pin, file.guard.descriptor
        if pin is not None and vm.process(pin.pid) is None and file.mode == EXCLUSIVE and descriptor is not None:
            # It was not closed: the helper that had it open died, and may have left writes queued.
            self._drain(vm, file, descriptor)
        else:
            self._let_go(vm, file)

    def _let_go(self, vm: GuardedVm, file: GuardedFile) -> None:
        vm.files.remove(file)
        vm.changed = True
        faults.point("closed")
        self._mark_released(vm, [file])
        log.info("%s: %s is closed, its lock is let go", vm.title, file.path)
        self._open_events.remove(vm, file.key)
        descriptor = file.guard.closed("the VM has closed it")
        if descriptor is None:
            self._forgotten(vm, None)
            return
        work = functools.partial(let_go, [descriptor], [vm.store_name(file)])
        self._threads.run(file.key[0], f"let go of {file.path}", work, functools.partial(self._forgotten, vm))

    def _forgotten(self, vm: GuardedVm, result: object) -> None:
        """Persist last: a daemon that starts in between must know to which file systemd's descriptor belongs."""
        if isinstance(result, Exception):
            log.error("letting go of a closed file went wrong: %s", result)
        faults.point("closed-before-state")
        if self._registry.get(vm.id) is vm:
            self._registry.save(vm)

    def _drain(self, vm: GuardedVm, file: GuardedFile, descriptor: int) -> None:
        self._scan_state(vm).moving.add(file.key)

        def drained(status: int) -> None:
            self._scan_state(vm).moving.discard(file.key)
            if status == 0 and file in vm.files:
                self._let_go(vm, file)

        try:
            subprocesses.start(self._loop, "drain", drained, words=[str(descriptor)], fds=[descriptor])
        except OSError as problem:
            self._scan_state(vm).moving.discard(file.key)
            log.error("%s: cannot prove that writes to %s are through: %s", vm.title, file.path, problem)

    def _scan_state(self, vm: GuardedVm) -> VmScanState:
        return self._scan_states.setdefault(vm.id, VmScanState())
