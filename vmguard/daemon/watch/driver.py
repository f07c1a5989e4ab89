"""Drive the pure watchdog (vmguard/core/watchdog/machine.py) from the daemon's loop.

It is told what happens, and its orders are carried out. Nothing here touches the share: probes go to threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

from vmguard.adapters.linux import clock, mounts
from vmguard.adapters.linux.kmsg import KernelLog
from vmguard.adapters.linux.mounts import Mount, NfsStatistics
from vmguard.core.locks.claim_states import State
from vmguard.core.watchdog.events import (
    Act,
    Acted,
    Answer,
    Ask,
    Counters,
    Effect,
    Event,
    Fence,
    Freeze,
    Hint,
    HintKind,
    LockId,
    LockInfo,
    MountSeen,
    Policy,
    Probe,
    Reclaim,
    Reclaimed,
    Report,
    Thaw,
    Tick,
    VmGone,
    VmInfo,
    VmSeen,
    WokeUp,
)
from vmguard.core.watchdog.fence_ladder import Others
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.states import Phase
from vmguard.core.watchdog.timing import Wishes
from vmguard.daemon.fence.signals import Acts
from vmguard.daemon.pin.fd_copies import Shield, description
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop, Timer
from vmguard.daemon.watch.guest_clocks import Clocks
from vmguard.daemon.watch.lease_store import Leases
from vmguard.daemon.watch.probe_threads import Prober

log = logging.getLogger("vmguard.watch")

#: seconds after which an unanswered question is a reason to shield a mount's VMs
_OWED = 0.3
#: seconds between two looks at mounts, and at the VMs of which there is news
_LOOK = 1.0
#: looks in which each VM is looked at once, whether there is news of it or not: nothing may stay unseen for good
_ALL_IN = 10
#: seconds between two ticks at least, however much is due
_PAUSE = 0.01
#: seconds that the boot clock may run ahead of the monotonic one before that counts as a suspend
_SUSPENDED = 0.5


class Watcher:
    """The watchdog of this host. ``fence`` is set by whoever puts the daemon together."""

    fence: Callable[[GuardedVm, str, Policy], None]

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        acts: Acts,
        report: Callable[[Report], None],
        wishes: Wishes,
        policy: Callable[[GuardedVm], Policy],
        leases: Leases | None = None,
    ) -> None:
        self._loop = loop
        self._leases_kept = leases
        self._registry = registry
        self._acts = acts
        self._report = report
        self._policy = policy
        self._clocks = Clocks(loop, registry)
        self._prober = Prober(loop, self._answered)
        #: questions on their way, and the device that they are about
        self._owed: dict[tuple[LockId, int], int] = {}
        self.shield: Shield | None = None
        self.watch = Watch(wishes)
        self._events: deque[Event] = deque()
        self._busy = False
        self._told: dict[str, tuple[GuardedVm, VmInfo]] = {}
        self._leases: dict[str, float] = {}
        self._looks = 0
        #: the NFSv4 mounts; one that is gone from the table while a VM still has a file there stays known
        self.mounts: dict[int, Mount] = {}
        self._ahead = self._boot_ahead()
        self._timer = Timer(lambda: None)
        self._due = math.inf

    def start(self) -> None:
        self._look_again()
        self._tick()
        try:
            kernel_log = KernelLog()
        except OSError as problem:
            log.warning("the kernel's log cannot be read (%s): a lost lock is found by asking alone", problem)
            return
        self._loop.watch(kernel_log.fd, lambda: self._kernel_says(kernel_log.telling()))

    # -- events in --------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take an event in and do all that follows from it, in its order."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                for effect in self.watch.step(self._events.popleft()):
                    self._carry_out_guarded(effect)
        finally:
            self._busy = False
            self._plan()

    def look(self) -> None:
        """Compare mounts and VMs with what the watchdog was told of them."""
        now = clock.boottime()
        statistics = mounts.statistics()
        all_of_them = self._look_at_mounts(statistics)
        self._tell_leases(statistics, now)
        self._looks += 1
        for number, vm in enumerate(self._registry):
            if vm.news or all_of_them or (number + self._looks) % _ALL_IN == 0:
                vm.news = False  # first: what follows from it may be news, too
                self._look_at(vm, statistics, now)
        for vm_id in self._told.keys() - self._registry.ids:
            self.gone(vm_id)
        for point in self._leases:
            if point in statistics:
                self.feed(_counters(now, statistics[point]))

    def _look_at(self, vm: GuardedVm, statistics: dict[str, NfsStatistics], now: float) -> None:
        before = self._told.get(vm.id)
        if before is not None and before[0] is not vm:
            self.gone(vm.id)  # released and claimed anew since the last look
        info = self._info(vm)
        self._tell_mounts(info, statistics, now)
        if before is None or before != (vm, info):
            self._told[vm.id] = (vm, info)
            self.feed(VmSeen(now, info))

    def gone(self, vm_id: str) -> None:
        """A VM's locks are let go of."""
        if self._told.pop(vm_id, None) is not None:
            self.feed(VmGone(clock.boottime(), vm_id))

    def io_error(self, vm: GuardedVm) -> None:
        """QEMU says that it could not read or write: a lost lock shows in that way, a broken disk, too. Ask."""
        if vm.id in self.watch.vms:
            for lock in self.watch.vms[vm.id].info.locks:
                text = "QEMU reported an I/O error"
                self.feed(Hint(clock.boottime(), lock.mount, HintKind.OTHER, text, lock.id))

    def others(self, vm_id: str) -> Others:
        """Whom it would hurt if the queues of this VM's mounts were cut by force."""
        return self.watch.others(vm_id) if vm_id in self.watch.vms else Others.NONE

    def _look_at_mounts(self, statistics: dict[str, NfsStatistics]) -> bool:
        """Whether one has come, gone, or changed its name: that is news of every VM."""
        seen: dict[int, Mount] = {}
        for mount in mounts.mounts():
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
        """The servers' lease times may change while they are away."""
        for point, lease in list(self._leases.items()):
            if point in statistics and statistics[point].lease != lease:
                self._leases[point] = statistics[point].lease
                self.feed(MountSeen(now, point, statistics[point].lease))

    def _tell_mounts(self, info: VmInfo, statistics: dict[str, NfsStatistics], now: float) -> None:
        """A mount is told before the first lock on it."""
        for point in {lock.mount for lock in info.locks} & statistics.keys() - self._leases.keys():
            lease = self._leases[point] = statistics[point].lease
            self.feed(MountSeen(now, point, lease, self._confirmed_before(info, point)))

    def _confirmed_before(self, info: VmInfo, point: str) -> float | None:
        """When a daemon before this one last knew that the lease of this mount was alive."""
        device = next(lock.id.key[0] for lock in info.locks if lock.mount == point)
        return self._leases_kept.before(point, device) if self._leases_kept is not None else None

    def _keep_leases(self) -> None:
        if self._leases_kept is not None:
            watched = ((name, mount) for name, mount in self.watch.mounts.items() if mount.locks)
            self._leases_kept.keep({(name, next(iter(mount.locks)).key[0]): mount.confirmed for name, mount in watched})

    def _info(self, vm: GuardedVm) -> VmInfo:
        return VmInfo(
            id=vm.id,
            title=vm.title,
            locks=tuple(lock for file in vm.files if (lock := self._lock(vm, file)) is not None),
            policy=self._policy(vm),
            process=vm.state in (State.RUNNING, State.INCOMING),
            frozen=vm.frozen,
            fencing=vm.fencing,
        )

    def _lock(self, vm: GuardedVm, file: GuardedFile) -> LockInfo | None:
        mount = self.mounts.get(file.key[0])
        pin = file.guard.pin
        # A QEMU that ended by itself took what was pinned on it along: nobody can be asked for it any more.
        pinned = pin is not None and (vm.state is not State.ENDED or bool(vm.fencing))
        if mount is None or (file.guard.descriptor is None and not pinned):
            return None
        through = f"{pin.pid}.{pin.fd}" if pin is not None else "held"
        lock = LockId(vm.id, file.key)
        return LockInfo(lock, mount.point, file.path, pin is not None, file.guard.granted, through)

    def _look_again(self) -> None:
        self._loop.call_in(_LOOK, self._look_again)
        ahead = self._boot_ahead()
        if ahead - self._ahead > _SUSPENDED:
            self.feed(WokeUp(clock.boottime(), ahead - self._ahead, "the host was suspended"))
        self._ahead = ahead
        self.look()
        self._keep_leases()

    def _tick(self) -> None:
        self._due = math.inf
        self.feed(Tick(clock.boottime()))

    def _plan(self) -> None:
        """The next tick, no later than the watchdog wants it: each event may bring that time forward."""
        now = clock.boottime()
        when = min(max(self.watch.wake_at(), now + _PAUSE), now + _LOOK)
        if when < self._due:
            self._timer.cancel()
            self._due = when
            self._timer = self._loop.call_at(when, self._tick)

    def _kernel_says(self, lines: list[str]) -> None:
        for line in lines:
            for point in self._concerned(line):
                self.feed(Hint(clock.boottime(), point, HintKind.KERNEL_LOG, line))

    def _concerned(self, line: str) -> list[str]:
        """The mounts of the server that the kernel names (``NFS: SERVER: lost 2 locks``); all when it names none."""
        sources = {mount.point: mount.source for mount in self.mounts.values()}
        named = [point for point, source in sources.items() if _server(source) in line.replace(":", " ").split()]
        return [point for point in named if point in self._leases] or list(self._leases)

    @staticmethod
    def _boot_ahead() -> float:
        return clock.boottime() - time.monotonic()

    # -- effects out ------------------------------------------------------------------------------------------------

    def _carry_out_guarded(self, effect: Effect) -> None:
        """What fails for one VM must not keep the orders for the others from being carried out."""
        try:
            self._carry_out(effect)
        except Exception:
            log.exception("%s failed; please report it as a bug", type(effect).__name__)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Report():
                self._report(effect)
            case Probe():
                self._probe(effect)
            case Freeze() | Thaw():
                self._stop_or_go(effect)
            case Fence():
                vm = self._registry.get(effect.vm)
                if vm is not None:
                    if self.shield is not None:
                        self.shield.take(vm)
                    self.fence(vm, effect.evidence, self._policy(vm))
            case Reclaim():
                self.feed(Reclaimed(clock.boottime(), effect.vm, False, "locking anew is not offered by this version"))

    def _probe(self, effect: Probe) -> None:
        for ask in effect.asks:
            vm = self._registry.get(ask.lock.vm)
            file = next((file for file in vm.files if file.key == ask.lock.key), None) if vm is not None else None
            fd = description(vm, file) if vm is not None and file is not None else None
            if file is None or fd is None:
                self._prober.refuse(ask, effect.mount, "EBADF")
                continue
            mount = self.mounts.get(file.key[0])
            seek = mount is not None and mount.option("vers") == "4.2"
            self._owed[ask.lock, ask.serial] = file.key[0]
            self._loop.call_in(_OWED, lambda ask=ask: self._still_owed(ask))  # type: ignore[misc]
            self._prober.ask(ask, effect.mount, fd, seek)

    def _still_owed(self, ask: Ask) -> None:
        device = self._owed.get((ask.lock, ask.serial))
        if device is not None:
            self._doubt(device, True)

    def _doubt(self, device: int, doubted: bool) -> None:
        if self.shield is not None:
            self.shield.doubt(device, doubted)

    def _answered(self, answer: Answer) -> None:
        device = self._owed.pop((answer.lock, answer.serial), None)
        self.feed(answer)
        mount = self.watch.mounts.get(answer.mount)
        healthy = mount is not None and mount.phase is Phase.HEALTHY
        if device is not None and healthy and device not in self._owed.values():
            self._doubt(device, False)

    def _stop_or_go(self, effect: Freeze | Thaw) -> None:
        vm = self._registry.get(effect.vm)
        if vm is None:
            return
        act = Act.FREEZE if isinstance(effect, Freeze) else Act.THAW

        def done(problem: str) -> None:
            if act is Act.FREEZE:
                self._clocks.frozen(vm)
            elif not problem:
                self._clocks.thawed(vm, self._policy(vm).set_clock)
            self.feed(Acted(clock.boottime(), vm.id, act, not problem, problem))

        do = self._acts.freeze if act is Act.FREEZE else self._acts.thaw
        do(vm, done)


def _server(source: str) -> str:
    """``10.0.0.1:/vm`` or ``[fd00::1]:/vm``: the server as mount(8) was given it."""
    server, colon, _ = source.partition(":/")
    return server.strip("[]") if colon else ""


def _counters(now: float, seen: NfsStatistics) -> Counters:
    return Counters(now, seen.point, seen.exchange_id, seen.create_session, seen.reclaim_complete, seen.test_stateid)
