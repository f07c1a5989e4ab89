"""Keeps every lock on the description that does the I/O: pins, follows, lets go of what QEMU closed.

/proc is the truth: a description's own fdinfo lists the locks on it, so what is pinned is read off there, also after
a crash at any point. A look costs links under /proc (sight.py, rounds.py) and no request to any server; the moves
themselves run in the file system's worker. inotify's IN_OPEN makes it quick: whenever anybody opens a guarded file,
its VM is looked at at once and for a second after (bursts.py), because QEMU opens a file anew before it closes the old
descriptor, and the locks that QEMU itself had on the old one stay on our copy until we close it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from vmguard import faults
from vmguard.adapters.linux import clock, systemd
from vmguard.adapters.linux.proc import Key, OpenFile
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.locks.pin import Wish, shares_writes, wish
from vmguard.core.locks.plan import BACKING, DISK, EXCLUSIVE, SHARED
from vmguard.core.locks.ranges import Range
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.owner_records.mark_released import MarkReleased
from vmguard.daemon.pin.fd_copies import Shield
from vmguard.daemon.pin.lock_transfer import Order, Outcome, Rival, carry_out, close_last, let_go
from vmguard.daemon.registry.guarded_file import GuardedFile, Pin, was_open
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import Workers
from vmguard.daemon.scan.burst import Bursts
from vmguard.daemon.scan.open_events import Opens
from vmguard.daemon.scan.periodic import Rounds
from vmguard.daemon.scan.process_fds import MountTables, Sight, descriptions, has_image_locks, may_be_image
from vmguard.daemon.scan.settling_files import STEADY
from vmguard.daemon.scan.vm_scan_state import Attention

log = logging.getLogger("vmguard.pinner")

#: looks in a row that must miss a file before it counts as closed: a look is no snapshot, QEMU may be changing
#: descriptors while it is taken
_ABSENT_ENOUGH = 2
#: seconds after which a VM is looked at again whose descriptors have changed without an event, and one that seems to
#: have closed a file
_CHANGED, _CLOSED = 0.25, 0.015
#: seconds between two full looks when nothing seems to happen, and while something can that no cheap look shows
_FULL_EVERY, _FULL_UNSETTLED = 60.0, 1.0
#: seconds before a pin that failed is tried again
_RETRY = 5.0


class Pinner:
    """Pins and follows the files of all running VMs."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        registry: Registry,
        mark_released: MarkReleased,
        pieces_of: Callable[[str], list[Range]],
        interval: float,
        on_conflict: Callable[[GuardedVm, GuardedFile, Rival], None],
        on_pinned: Callable[[GuardedVm, GuardedFile], None],
    ) -> None:
        """``pieces_of``: the ranges that are locked, by hypervisor. ``on_conflict``: told when somebody else has the
        lock of a file that a VM writes to. ``on_pinned``: told of each new pin."""
        self._loop = loop
        self._mark_released = mark_released
        self._workers = workers
        self._registry = registry
        self._attention: dict[str, Attention] = {}
        self._opens = Opens(loop, workers, self._opened, self._look_at_all, self._guards)
        self._bursts = Bursts(loop, self.reconcile, self._peek)
        self.rounds = Rounds(loop, registry, self._glance, interval)
        self.shield = Shield(workers, registry, self._look_at_all)
        self.tables = MountTables()
        self.pieces_of = pieces_of
        self.on_conflict = on_conflict
        self.on_pinned = on_pinned

    def start(self) -> None:
        self.rounds.start()

    def attend(self, vm: GuardedVm) -> None:
        """QEMU's process is known, or something happened to one of its files: look now and in the next second."""
        self._bursts.begin(vm)

    def try_again(self, vm: GuardedVm) -> None:
        """Try at once what failed before."""
        for file in vm.files:
            file.retry = 0.0
        self.reconcile(vm)

    def forget(self, vm: GuardedVm) -> None:
        """The VM is gone: stop watching its files."""
        self._opens.forget(vm)
        self._bursts.forget(vm)
        attention = self._attention.pop(vm.id, None)
        for sight in attention.sights.values() if attention is not None else ():
            sight.close()

    def has_in_hand(self, vm: GuardedVm) -> bool:
        """Whether a worker is moving one of the VM's locks: its descriptors must not be let go of meanwhile."""
        attention = self._attention.get(vm.id)
        return attention is not None and bool(attention.moving)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _glance(self, vm: GuardedVm, now: float) -> None:
        """The cheap look: whether a full one is worth its cost, and one more after it."""
        attention = self._attention.get(vm.id)
        known = attention is not None and now < attention.due
        if self._peek(vm) and known:
            self._loop.call_in(_CHANGED, lambda: self.reconcile(vm))

    def _peek(self, vm: GuardedVm) -> bool:
        """The same for a VM that is looked at again soon in any case; whether the full look was worth it."""
        attention = self._attention.get(vm.id)
        if attention is not None and attention.nothing_new(len(vm.processes)):
            return False
        self.reconcile(vm)
        return True

    def _opened(self, vm_id: str) -> None:
        vm = self._registry.get(vm_id)
        if vm is not None:
            self.attend(vm)

    def _look_at_all(self) -> None:
        for attention in self._attention.values():
            attention.due = 0.0

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
                log.info("%s: opened %s, which no hook announced", vm.title, file.path)
            file.seen = True
            self._settle_file(vm, file, users)
        attention = self._busy(vm)
        attention.newcomers.only(open_now.keys())
        gone = [file for key, file in known.items() if key not in open_now and was_open(file)]
        # A process that exits shows no descriptors any more, but its writes may still be under way: only one that
        # lives on has closed them.
        shown = bool(gone) and all(sight.shows() for sight in attention.sights.values())
        for file in known.values():
            file.absent = file.absent + 1 if shown and file in gone else 0
            if file.absent >= _ABSENT_ENOUGH:
                self._closed(vm, file)
        if any(file.absent for file in gone):
            self._loop.call_in(_CLOSED, lambda: self.reconcile(vm))
        now = clock.boottime()
        waiting = [file.retry for file in vm.files if file.weaker and file.retry > now]
        calm = not any(self._is_unsettled(vm, file, open_now.get(file.key, [])) for file in vm.files)
        later = [now + (_FULL_EVERY if calm else _FULL_UNSETTLED), attention.newcomers.next_change(), *waiting]
        attention.due = now if attention.moving else min(later)

    def _is_unsettled(self, vm: GuardedVm, file: GuardedFile, users: list[OpenFile]) -> bool:
        """The kernel does not tell of its opens, or QEMU may write to it and lets others write, too, for now: the image
        locks that say so come and go without an open."""
        blind = file.pin is not None and not self._opens.watches(vm, file)
        return blind or (file.mode == SHARED and any(user.info.writable for user in users))

    def _is_steady(self, vm: GuardedVm, key: Key, users: list[OpenFile]) -> bool:
        """Whether a file that nobody announced has been open in the same way for a moment, or has our lock already."""
        if any(description.holds_some(self.pieces_of(vm.hypervisor)) for description in descriptions(users)):
            return True
        steady = self._busy(vm).newcomers.steady(key, users)
        if steady is None:
            self._loop.call_in(STEADY, lambda: self.reconcile(vm))
        return bool(steady)

    def _observe(self, vm: GuardedVm) -> dict[Key, list[OpenFile]]:
        """The files of the VM's processes that concern us: those of its claim, those on NFS, all disk images."""
        ours = {file.key for file in vm.files}
        found: dict[Key, list[OpenFile]] = {}
        for process, sight in self._sights(vm):
            for user in sight.full(self.tables):
                self._busy(vm).image_locks |= has_image_locks(user)
                if user.key in ours or self.is_image(process.kind, user):
                    found.setdefault(user.key, []).append(user)
            if sight.forbidden:
                for file in vm.files:
                    self._weaker(vm, file, f"the daemon may not look into {process.title} (needs CAP_SYS_PTRACE)")
        return found

    def is_image(self, kind: Kind, user: OpenFile) -> bool:
        """Whether a file that a process has open is one that a lock should guard."""
        return may_be_image(kind, user, self.tables.shares())

    def _sights(self, vm: GuardedVm) -> list[tuple[GuardedProcess, Sight]]:
        sights = self._busy(vm).sights
        for pid in sights.keys() - {process.pid for process in vm.processes}:
            sights.pop(pid).close()
        for process in vm.processes:
            if process.pid not in sights:
                try:
                    sights[process.pid] = Sight(process.pid)
                except OSError:
                    continue
        return [(process, sights[process.pid]) for process in vm.processes if process.pid in sights]

    def discovered(self, users: list[OpenFile], hypervisor: str = "") -> GuardedFile:
        """A file that is open and no hook announced: hot-plugged, a snapshot's overlay, a copy's target."""
        writable = any(user.info.writable for user in users)
        return GuardedFile(
            path=users[0].path,
            mode=EXCLUSIVE if writable else SHARED,
            role=DISK if writable else BACKING,
            source=f"open in pid {users[0].pid}",
            key=users[0].key,
            pieces=list(self.pieces_of(hypervisor)),
            found=True,
        )

    # -- pinning ----------------------------------------------------------------------------------------------------

    def _settle_file(self, vm: GuardedVm, file: GuardedFile, users: list[OpenFile]) -> None:
        found = descriptions(users)
        may_be = not file.owned and (file.found or file.mode == SHARED)
        shareable = file.shareable or (may_be and shares_writes(found))
        wanted = wish(found, file.pieces, shareable)
        if wanted is None or file.key in self._busy(vm).moving:
            return
        here = wanted.satisfied and file.pin == Pin(wanted.target.pid, wanted.target.fd)
        keep = self._keeps(vm, file)
        if here and (file.fd >= 0) == keep:
            self._opens.add(vm, file)  # if it is not watched already
            return
        if here and file.fd >= 0:
            self.shield.drop(vm, file)
            return
        if file.pin is None and file.fd >= 0 and file.mode == EXCLUSIVE and wanted.mode == SHARED:
            return  # claimed for writing, and QEMU only looks at its format first: nothing is given up for that
        if clock.boottime() < file.retry and not (file.outgoing and wanted.mode == EXCLUSIVE):
            return
        self._order(vm, file, wanted)

    def _keeps(self, vm: GuardedVm, file: GuardedFile) -> bool:
        calm = self._busy(vm).newcomers.grown_up(file.key) and not self._busy(vm).image_locks
        return calm or self.shield.wants(vm, file)

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
            source=file.fd,
            source_mode=file.held_mode,
            satisfied=wanted.satisfied,
            keep=self._keeps(vm, file),
            yields=file.mode == EXCLUSIVE and wanted.mode == SHARED,
        )
        self._busy(vm).moving.add(file.key)
        self._workers.run(
            file.key[0],
            f"pin {file.path}",
            lambda: carry_out(order),
            lambda result: self._moved(vm, file, wanted, result),
        )

    def _moved(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, result: object) -> None:
        attention = self._busy(vm)
        attention.moving.discard(file.key)
        attention.due = 0.0
        if isinstance(result, Outcome) and result.done:
            self._pinned(vm, file, wanted, result)
        elif isinstance(result, Outcome) and result.rival is not None:
            self._refused(vm, file, wanted, result.rival)
        elif isinstance(result, Outcome) and result.forbidden:
            self._held(vm, file, wanted, result)
        elif isinstance(result, Exception):
            self._weaker(vm, file, f"the lock could not be moved: {result}")

    def _refused(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, rival: Rival) -> None:
        file.hand_over(rival.successor)
        if rival.successor and all(other.outgoing or other.mode == SHARED for other in vm.files):
            self._bursts.forget(vm)  # there is nothing to follow until QEMU opens one of them again
        self._weaker(vm, file, rival.sentence)
        if not (rival.exclusive or file.found or file.owned) and file.mode == SHARED and file.role == DISK:
            file.shareable = True  # claimed as shared, written to, and others have it like that: <shareable/>
            file.retry = 0.0
        if wanted.mode == EXCLUSIVE and rival.exclusive and not rival.restored and self._guards(vm):
            self.on_conflict(vm, file, rival)

    def _held(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, outcome: Outcome) -> None:
        """The kernel forbids the pin: the lock stays beside the process, with us."""
        if outcome.copy >= 0:
            file.fd, file.mode, vm.news = outcome.copy, wanted.mode, True
            if systemd.may_store(file.fd):
                systemd.store(vm.store_name(file), file.fd)
            self.on_pinned(vm, file)
        self._weaker(vm, file, outcome.forbidden)

    def _weaker(self, vm: GuardedVm, file: GuardedFile, why: str) -> None:
        file.retry = max(file.retry, clock.boottime() + _RETRY)
        if file.weaker != why:
            log.warning("%s: %s is not pinned: %s", vm.title, file.path, why)
            file.weaker = why
            self._registry.save(vm)

    def _pinned(self, vm: GuardedVm, file: GuardedFile, wanted: Wish, outcome: Outcome) -> None:
        before = [file.fd] if file.fd >= 0 else []
        process = vm.process(wanted.target.pid)
        file.pin = Pin(wanted.target.pid, wanted.target.fd, process.name if process is not None else "")
        file.mode = wanted.mode
        file.fd = outcome.copy
        file.granted = outcome.granted
        file.weaker = file.conflict = ""
        file.retry = 0.0
        systemd.forget(vm.store_name(file))
        # Soon, as QEMU's own image locks live on in it; but only now, as others in this thread use it.
        self._workers.run(file.key[0], f"close the old copy of {file.path}", lambda: close_last(before), _report)
        faults.point("pinned-before-store")
        if file.fd >= 0 and systemd.may_store(file.fd):
            systemd.store(vm.store_name(file), file.fd)
        faults.point("pinned-before-state")
        self._registry.save(vm)
        faults.point("pinned")
        log.info("%s: %s pinned (%s) on %s", vm.title, file.path, file.mode, file.pin)
        self._opens.add(vm, file)
        self.on_pinned(vm, file)

    # -- letting go -------------------------------------------------------------------------------------------------

    def _closed(self, vm: GuardedVm, file: GuardedFile) -> None:
        """The VM closed a file while it lives on: it needs no guard any more."""
        if file.key in self._busy(vm).moving:
            return
        if file.pin is not None and vm.process(file.pin.pid) is None and file.mode == EXCLUSIVE and file.fd >= 0:
            self._drain(vm, file)  # nobody closed it: the helper that had it died, and may have left writes behind
            return
        vm.files.remove(file)
        vm.news = True
        faults.point("closed")
        self._mark_released(vm, [file])
        log.info("%s: %s is closed, its lock is let go", vm.title, file.path)
        self._opens.remove(vm, file.key)
        if file.fd < 0:
            self._forgotten(vm, None)
            return
        fds, file.fd = [file.fd], -1
        names = [vm.store_name(file)]
        done: Callable[[object], None] = lambda result: self._forgotten(vm, result)  # noqa: E731
        self._workers.run(file.key[0], f"let go of {file.path}", lambda: let_go(fds, names), done)

    def _forgotten(self, vm: GuardedVm, result: object) -> None:
        """Last: a daemon that comes in between must know whose the descriptor is that systemd has kept."""
        _report(result)
        faults.point("closed-before-state")
        if self._registry.get(vm.id) is vm:
            self._registry.save(vm)

    def _drain(self, vm: GuardedVm, file: GuardedFile) -> None:
        self._busy(vm).moving.add(file.key)

        def drained(status: int) -> None:
            self._busy(vm).moving.discard(file.key)
            if status == 0 and file in vm.files:
                file.pin = None
                self._closed(vm, file)

        try:
            subprocesses.start(self._loop, "drain", drained, words=[str(file.fd)], fds=[file.fd])
        except OSError as problem:
            self._busy(vm).moving.discard(file.key)
            log.error("%s: cannot prove that writes to %s are through: %s", vm.title, file.path, problem)

    def _busy(self, vm: GuardedVm) -> Attention:
        return self._attention.setdefault(vm.id, Attention())


def _report(result: object) -> None:
    if isinstance(result, Exception):
        log.error("letting go of a closed file went wrong: %s", result)
