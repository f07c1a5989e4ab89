"""Tell the watchdog what happens: mounts, leases, VMs, the kernel's log. Nothing here touches the share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from vmguard.adapters.linux import clock
from vmguard.adapters.linux.kmsg import KernelLog
from vmguard.adapters.linux.mount_table import MountTable
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.linux.mountstats import NfsStatistics
from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.watchdog.events import (
    Counters,
    Event,
    Hint,
    HintKind,
    LockId,
    LockInfo,
    MountSeen,
    Rival,
    VmGone,
    VmInfo,
    VmSeen,
    WokeUp,
)
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.policy import Policy
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.watch.lease_store import LeaseStore

log = logging.getLogger("vmguard.watch")

#: between two looks at mounts, and at the VMs that have changed
_LOOK_S = 1.0
#: looks in which every VM is examined once, changed or not: no change may stay unseen for good
SWEEP_LOOKS = 10
#: the boot clock may run ahead of the monotonic one by this before it counts as a suspend
_SUSPENDED_S = 0.5


class Observer:
    """The reports to the watchdog: what it was told, and what has changed since."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        watch: Watch,
        feed: Callable[[Event], None],
        policy: Callable[[GuardedVm], Policy],
        lease_store: LeaseStore | None = None,
        table: MountTable | None = None,
        on_new_session: Callable[[Mount, float], None] = lambda mount, lease: None,
    ) -> None:
        """``feed`` takes an event, ``policy`` returns the admin's choices for a VM.

        ``lease_store``: the lease ages that an earlier daemon persisted. ``table``: this host's mounts.
        ``on_new_session`` is called with a mount whose client has set up its state anew, and with the lease.
        """
        self._loop = loop
        self._registry = registry
        self._watch = watch
        self._feed = feed
        self._policy = policy
        self._lease_store = lease_store
        self._table = table or MountTable()
        self._on_new_session = on_new_session
        #: the sessions that each mount's client has made so far
        self._sessions: dict[str, int] = {}
        self._told: dict[str, tuple[GuardedVm, VmInfo]] = {}
        #: the lease time of each mount, as the watchdog was told
        self._told_leases: dict[str, float] = {}
        self._looks = 0
        #: the NFSv4 mounts by device; one that is gone from the table while a VM still has a file there stays known
        self.mounts: dict[int, Mount] = {}
        self._ahead = self._boot_ahead()

    def start(self) -> None:
        """Look now, and each second from now on; listen to the kernel's log."""
        self._look_again()
        try:
            kernel_log = KernelLog()
        except OSError as problem:
            log.warning("the kernel's log cannot be read (%s): a lost lock is found by probes alone", problem)
            return
        self._loop.watch(kernel_log.fd, lambda: self._kernel_says(kernel_log.telling()))

    def look(self) -> None:
        """Compare mounts and VMs with what the watchdog was told of them."""
        now = self._loop.now()
        statistics = self._table.statistics()
        mounts_changed = self._look_at_mounts(statistics)
        self._tell_leases(statistics, now)
        self._looks += 1
        for number, vm in enumerate(self._registry):
            if vm.changed or mounts_changed or (number + self._looks) % SWEEP_LOOKS == 0:
                self._look_at(vm, statistics, now)
        for vm_id in self._told.keys() - self._registry.ids:
            self.gone(vm_id)
        for point in self._told_leases:
            if point in statistics:
                self._feed(_counters(now, statistics[point]))
        self._note_sessions(statistics)

    def _note_sessions(self, statistics: dict[str, NfsStatistics]) -> None:
        for mount in self.mounts.values():
            seen = statistics.get(mount.point)
            if seen is not None and seen.create_session > self._sessions.get(mount.point, seen.create_session):
                self._on_new_session(mount, seen.lease)
        self._sessions = {point: seen.create_session for point, seen in statistics.items()}

    def tell(self, vm: GuardedVm) -> None:
        """Tell the watchdog now what has changed about a VM: what comes next needs to be judged at once."""
        statistics = self._table.statistics()
        self._look_at_mounts(statistics)
        self._look_at(vm, statistics, self._loop.now())

    def gone(self, vm_id: str) -> None:
        """Tell the watchdog that a VM's locks are released."""
        if self._told.pop(vm_id, None) is not None:
            self._feed(VmGone(self._loop.now(), vm_id))

    def io_error(self, vm: GuardedVm) -> None:
        """Have a VM's locks probed after an I/O error of QEMU: the cause may be a lost lock or a broken disk."""
        if vm.id in self._watch.vms:
            for lock in self._watch.vms[vm.id].info.locks:
                text = "QEMU reported an I/O error"
                self._feed(Hint(self._loop.now(), lock.mount, HintKind.OTHER, text, lock.id))

    def mount_of(self, device: int) -> Mount | None:
        """Return the NFSv4 mount of a device."""
        return self.mounts.get(device)

    # -- mounts -----------------------------------------------------------------------------------------------------

    def _look_at_mounts(self, statistics: dict[str, NfsStatistics]) -> bool:
        """Update the mounts; return whether one has come, gone, or changed its name, which concerns every VM."""
        seen: dict[int, Mount] = {}
        for mount in self._table.mounts():
            known = self.mounts.get(mount.device)
            if mount.point in statistics and (mount.device not in seen or (known and known.point == mount.point)):
                seen[mount.device] = mount  # mounted in two places, it keeps the name that it had
        missing = self.mounts.keys() - seen.keys()
        if missing:
            missing &= {lock.id.key[0] for _, info in self._told.values() for lock in info.locks}
        before = self.mounts
        self.mounts = {**{device: before[device] for device in missing}, **seen}
        return {device: mount.point for device, mount in before.items()} != {
            device: mount.point for device, mount in self.mounts.items()
        }

    def _tell_leases(self, statistics: dict[str, NfsStatistics], now: float) -> None:
        """Tell each lease time that has changed: it may while a server is away."""
        for point, lease in list(self._told_leases.items()):
            if point in statistics and statistics[point].lease != lease:
                self._told_leases[point] = statistics[point].lease
                self._feed(MountSeen(now, point, statistics[point].lease))

    def _tell_mounts(self, info: VmInfo, statistics: dict[str, NfsStatistics], now: float) -> None:
        """Tell each mount before the first lock on it, and what its client has counted so far."""
        for point in {lock.mount for lock in info.locks} & statistics.keys() - self._told_leases.keys():
            lease = self._told_leases[point] = statistics[point].lease
            self._feed(MountSeen(now, point, lease, self._confirmed_before(info, point)))
            self._feed(_counters(now, statistics[point]))

    def _confirmed_before(self, info: VmInfo, point: str) -> float | None:
        """Return when an earlier daemon last knew that the lease of this mount was alive."""
        device = next(lock.id.key[0] for lock in info.locks if lock.mount == point)
        return self._lease_store.before(point, device) if self._lease_store is not None else None

    def keep_leases(self) -> None:
        """Persist when each lease was last confirmed, for a later daemon."""
        if self._lease_store is not None:
            watched = ((name, mount) for name, mount in self._watch.mounts.items() if mount.locks)
            self._lease_store.keep({(name, next(iter(mount.locks)).key[0]): mount.confirmed for name, mount in watched})

    # -- VMs --------------------------------------------------------------------------------------------------------

    def _look_at(self, vm: GuardedVm, statistics: dict[str, NfsStatistics], now: float) -> None:
        vm.changed = False  # first: what follows from it may change the VM again
        before = self._told.get(vm.id)
        if before is not None and before[0] is not vm:
            self.gone(vm.id)  # released and claimed anew since the last look
            before = None
        info = self._info(vm)
        self._tell_mounts(info, statistics, now)
        if before is None or before != (vm, info):
            self._told[vm.id] = (vm, info)
            self._feed(VmSeen(now, info))

    def _info(self, vm: GuardedVm) -> VmInfo:
        return VmInfo(
            id=vm.id,
            title=vm.title,
            locks=tuple(lock for file in vm.files if (lock := self._lock(vm, file)) is not None),
            policy=self._policy(vm),
            process=vm.state in LIVING,
            frozen=vm.frozen,
            fencing=vm.fencing,
            rivals=tuple(Rival(file.path, rival) for file in vm.files if (rival := file.guard.rival) is not None),
            # An earlier daemon may have ended between the freeze and the note that it was over a conflict.
            held=bool(vm.held_for_person) or (vm.frozen and vm.state is State.CONFLICT),
        )

    def _lock(self, vm: GuardedVm, file: GuardedFile) -> LockInfo | None:
        mount = self.mounts.get(file.key[0])
        pin = file.guard.pin
        # A QEMU that ended by itself took what was pinned on it along: nothing is left to probe.
        pinned = pin is not None and (vm.state is not State.ENDED or bool(vm.fencing))
        if mount is None or (file.guard.descriptor is None and not pinned):
            return None
        through = f"{pin.pid}.{pin.fd}.{file.relocks}" if pin is not None else "held"
        lock, epoch = LockId(vm.id, file.key), file.epoch if file.epoch and file.mode == EXCLUSIVE else None
        return LockInfo(lock, mount.point, file.path, pin is not None, file.guard.granted, through, epoch, file.stake)

    # -- time and the kernel's log ----------------------------------------------------------------------------------

    def _look_again(self) -> None:
        self._loop.call_in(_LOOK_S, self._look_again)
        ahead = self._boot_ahead()
        if ahead - self._ahead > _SUSPENDED_S:
            self._feed(WokeUp(self._loop.now(), ahead - self._ahead, "the host was suspended"))
        self._ahead = ahead
        self.look()
        self.keep_leases()

    def _kernel_says(self, lines: list[str]) -> None:
        for line in lines:
            for point in self._concerned(line):
                self._feed(Hint(self._loop.now(), point, HintKind.KERNEL_LOG, line))

    def _concerned(self, line: str) -> list[str]:
        """Return the mounts of the server that a line names (``NFS: SERVER: lost 2 locks``); all if it names none."""
        sources = {mount.point: mount.source for mount in self.mounts.values()}
        named = [point for point, source in sources.items() if server_of(source) in line.replace(":", " ").split()]
        return [point for point in named if point in self._told_leases] or list(self._told_leases)

    @staticmethod
    def _boot_ahead() -> float:
        return clock.boottime() - time.monotonic()


def server_of(source: str) -> str:
    """Return the server as mount(8) was given it: ``10.0.0.1:/vm`` or ``[fd00::1]:/vm``."""
    server, colon, _ = source.partition(":/")
    return server.strip("[]") if colon else ""


def _counters(now: float, seen: NfsStatistics) -> Counters:
    states = seen.exchange_id, seen.create_session, seen.reclaim_complete, seen.test_stateid
    return Counters(now, seen.point, *states, seen.connects)
