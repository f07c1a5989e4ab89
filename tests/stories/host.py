"""A hypervisor of the simulated world: its VMs, and the daemon around the real ``Watch``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from tests.stories.machine import Start, Vm, lock_id
from tests.stories.world import Description, Kernel, Request, Server, Sim
from vmguard.core.watchdog.events import (
    Act,
    Acted,
    Answer,
    Ask,
    Cause,
    Counters,
    Effect,
    Event,
    Fence,
    Freeze,
    Hold,
    MountSeen,
    Probe,
    Relock,
    Report,
    Rival,
    RivalMet,
    Thaw,
    Tick,
    Token,
    TryLocks,
    Unhold,
    VmGone,
    VmSeen,
    WokeUp,
)
from vmguard.core.watchdog.fence_ladder import FencedProcess, FenceEvidence, Life, Rung, next_rung
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.timing import Rungs, Wishes

#: seconds that a signal takes to be proven
SIGNAL = 0.02


class Host:
    """One boot of one host with its daemon."""

    def __init__(self, sim: Sim, name: str, identity: str, servers: dict[str, Server], wishes: Wishes) -> None:
        self.sim, self.name, self.servers, self.wishes = sim, name, servers, wishes
        self.kernel = Kernel(sim, name, identity)
        self.vms: dict[str, Vm] = {}
        self.watch: Watch | None = Watch(wishes)
        self.confirmed: dict[str, float] = {}
        #: the daemon is stopped: events wait here
        self.waiting: list[Callable[[], None]] | None = None
        self.peers: Callable[[str], list[Vm]] = lambda path: []
        self.epochs: dict[str, int] = {}
        #: this host's watchdog knows the epochs of its claims; without it there is no fencing token
        self.has_records = True
        #: a start asks for its locks before it runs, if the client's state was set up anew since it took them
        self.proves_starts = True
        #: why records cannot be read, the errno's name
        self.record_problem = ""
        #: the control: any answer to SEEK counts, whoever gave it
        self.believes_all = False
        #: servers whose locks are probed by READ
        self.by_read: set[str] = set()
        self.on_fenced: Callable[[Vm], None] = lambda vm: None
        self._ticks = 0
        self._counted: dict[str, tuple[int, ...]] = {}
        self.sim.after(0.75, self._look_at_counters)
        self.asked: dict[str, int] = {}
        #: what `vmguard history` would have
        self.reports: list[tuple[float, Report]] = []

    def say(self, text: str) -> None:
        self.sim.say(self.name, text)

    # -- the daemon ---------------------------------------------------------------------------------------------------

    def feed(self, make: Callable[[float], Event]) -> None:
        """Something for the daemon's loop; it sees the time at which it comes round to it."""
        if self.watch is None or self.kernel.dead:
            return
        if self.waiting is not None:
            self.waiting.append(lambda: self.feed(make))
            return
        self.perform(self.watch.step(make(self.sim.now)))
        self._ticks += 1
        tick = self._ticks
        when = self.watch.wake_at()
        if when < math.inf:
            self.sim.at(when, lambda: self._tick(tick))

    def _look_at_counters(self) -> None:
        """Each second; the core is told when they have changed."""
        self.sim.after(1.0, self._look_at_counters)
        for name, counters in self.kernel.counters.items():
            if self._counted.get(name) != tuple(counters) and self.watch is not None and self.waiting is None:
                self._counted[name] = tuple(counters)
                self.feed(lambda now, name=name: Counters(now, name, *self._counted[name]))  # type: ignore[misc]

    def _tick(self, tick: int) -> None:
        if tick == self._ticks and self.waiting is None:
            self.feed(Tick)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Report):
                self.say(f"{effect.level:7} {effect.code}: {effect.sentence}")
                self.reports.append((self.sim.now, effect))
            elif isinstance(effect, Probe):
                self._probe(effect)
            elif isinstance(effect, Freeze):
                self._signal(effect.vm, Act.FREEZE)
            elif isinstance(effect, Thaw):
                self._signal(effect.vm, Act.THAW)
            elif isinstance(effect, Fence):
                self._fence(effect)
            elif isinstance(effect, Hold):
                self.vms[effect.vm].held = True
                self.say(f"   {effect.vm} waits for a person: {effect.why}")
            elif isinstance(effect, Unhold):
                self.vms[effect.vm].held = False
            elif isinstance(effect, TryLocks):
                self._try_locks(self.vms[effect.vm])
            elif isinstance(effect, Relock):
                self.vms[effect.vm].lock_again(effect)

    def _probe(self, probe: Probe) -> None:
        for ask in probe.asks:
            self.asked[probe.mount] = self.asked.get(probe.mount, 0) + 1
            vm = self.vms[ask.lock.vm]
            description = next(vm.locks[path] for path in vm.locks if lock_id(vm.name, path) == ask.lock)
            sent = self.sim.now

            self.ask(description, functools.partial(self._probed, probe.mount, ask, description, sent))

    def ask(self, description: Description, done: Callable[[str, bool, bool], None]) -> None:
        """Probe a lock as adapters/storage/lock_probe.py does; ``done`` takes problem, reached, asked."""
        kernel, server = self.kernel, description.server.name
        by_client = server in kernel.no_seek

        def sought(problem: str, reached: bool) -> None:
            if self.believes_all:
                done(problem, reached and problem == "EIO", True)
            elif problem == "EINVAL" or (not problem and server in kernel.no_seek):
                self.by_read.add(server)
                self._ask_by_read(description, done)
            else:
                done(problem, reached, True)

        if server in self.by_read and not self.believes_all:
            self._ask_by_read(description, done)
        else:
            assert self.believes_all or not by_client, "a client that answers by itself is seen at its first answer"
            kernel.seek(description, sought)

    def _ask_by_read(self, description: Description, done: Callable[[str, bool, bool], None]) -> None:
        if description.path in self.kernel.busy:
            why = "the pages that were tried are dirty or in use"
            self.kernel.statfs(description, lambda problem, _: done(problem or why, not problem, bool(problem)))
            return
        self.kernel.io(description, lambda problem, reached: done(problem, reached, True))

    def _probed(
        self,
        mount: str,
        ask: Ask,
        description: Description,
        sent: float,
        problem: str,
        reached: bool,
        asked: bool,
    ) -> None:
        token = Token(self.epochs.get(description.path), "another host", self.record_problem) if ask.token else None
        kind = "READ (the server has no SEEK)" if description.server.name in self.by_read else ""
        self.feed(lambda now: Answer(now, mount, ask.lock, ask.serial, sent, problem, reached, asked, kind, token))

    def _signal(self, name: str, act: Act) -> None:
        vm = self.vms[name]

        def proven() -> None:
            if vm.state not in ("running", "frozen"):
                return
            ok = vm.stubborn != act
            if ok:
                self._set(vm, "frozen" if act is Act.FREEZE else "running")
                vm.was_frozen = act is Act.FREEZE
            self.feed(lambda now: Acted(now, name, act, ok, "" if ok else "state R after SIGSTOP"))

        self.sim.after(SIGNAL, proven)

    def _set(self, vm: Vm, state: str) -> None:
        vm.state = state
        words = {"frozen": "stands still", "running": "runs", "dead": "is dead", "blocked": "is killed, but in state D"}
        self.say(f"   {vm.name} {words[state]}")
        if state == "dead" and vm.stubborn == "copy":
            for description in vm.locks.values():
                self.kernel.close(description)  # it was the last one
        for path in vm.locks if vm.executing else ():
            for other in self.peers(path):
                if other is not vm and other.executing:
                    self.sim.violation(
                        "runs", f"{vm.name} on {self.name} and {other.name} on {other.host.name}: {path}"
                    )

    # -- VMs ----------------------------------------------------------------------------------------------------------

    def tell(self, vm: Vm) -> None:
        """Tell the watchdog about a VM and its mounts."""
        for name in sorted({description.server.name for description in vm.locks.values()}):
            self.feed(lambda now, name=name: self._mount_seen(now, name))  # type: ignore[misc]
        self.feed(lambda now: VmSeen(now, vm.info()))

    def _mount_seen(self, now: float, name: str) -> MountSeen:
        return MountSeen(now, name, self.servers[name].lease, self.confirmed.get(name))

    def start(self, vm: Vm, paths: list[str]) -> None:
        Start(self, vm, paths).go_on()

    def runs(self, vm: Vm) -> None:
        """A start is over."""
        self._set(vm, "running")
        self.tell(vm)
        vm.write()

    def claim(self, vm: Vm, path: str, then: Callable[[], None]) -> None:
        server_name, _, file = path.partition(":")
        server = self.servers[server_name]
        description = Description(self.kernel, server, file)
        sent, before = self.sim.now, self.kernel.sessions(server_name)

        def done(problem: str, reached: bool) -> None:
            if problem:
                self.sim.after(1.0, lambda: self.claim(vm, path, then))
                return
            self.kernel.hold(description)
            vm.locks[path], vm.granted[path] = description, sent
            # before its first request to a server the client had no state there
            vm.sessions.setdefault(server_name, before or self.kernel.sessions(server_name))
            self.say(f"   {vm.name} has the lock on {path}")
            then()

        self.kernel.send(Request(self.kernel, server, file, None, lambda: server.lock(description), done))

    def end(self, vm: Vm, why: str) -> None:
        """QEMU ends by itself; its locks are released once the server answers."""
        self.say(f"   {vm.name} ends: {why}")
        vm.state = "dead"
        self.tell(vm)
        self.release(vm, lambda: self.gone(vm))

    def gone(self, vm: Vm) -> None:
        vm.state = "gone"
        self.feed(lambda now: VmGone(now, vm.name))
        self.vms.pop(vm.name, None)

    def release(self, vm: Vm, then: Callable[[], None]) -> None:
        waiting = set(vm.locks)

        def done(path: str) -> None:
            waiting.discard(path)
            if not waiting:
                then()

        for path, item in vm.locks.items():
            self._unlock(item, lambda path=path: done(path))  # type: ignore[misc]
        if not waiting:
            then()

    def _unlock(self, item: Description, then: Callable[[], None]) -> None:
        if item.lost:  # the server knows nothing of it: no request
            self.kernel.close(item)
            self.sim.after(0.01, then)
            return
        server = item.server

        def done(problem: str, reached: bool) -> None:
            self.kernel.close(item)
            then()

        self.kernel.send(Request(self.kernel, server, item.file, None, lambda: server.unlock(item), done))

    # -- the fence ladder ---------------------------------------------------------------------------------------------

    def _fence(self, order: Fence) -> None:
        vm = self.vms[order.vm]
        claimed_since = any(self.epochs.get(path, 0) > epoch for path, epoch in vm.epochs.items())
        lost = claimed_since or any(item.lost for item in vm.locks.values())
        if order.cause is Cause.LOST and not vm.fencing and not lost:
            self.sim.violation("killed", f"{vm.name} is fenced although its locks were reclaimed")
        vm.fencing = order.evidence
        self.climb(vm)

    def climb(self, vm: Vm) -> None:
        """One look at the evidence, one rung; again until it is done, or the daemon is gone."""
        if self.watch is None or self.kernel.dead or vm.state == "gone":
            return
        if self.waiting is not None:
            self.waiting.append(lambda: self.climb(vm))
            return
        step = next_rung(self.evidence(vm), vm.rungs, self.sim.now, Rungs(), vm.policy)
        text = f"{'ALARM ' if step.alarm else ''}{step.rung}: {step.sentence}"
        if text != vm.said:
            vm.said = text
            self.say(f"   fence {vm.name}: {text}")
        if step.done:
            self.gone(vm)
            self.on_fenced(vm)
            return
        if step.host_fence:
            self.say("   the watchdog device is no longer petted: the host resets")
            self.kernel.dead = True
            return
        self.take_rung(vm, step.rung, step.may_cut)
        self.sim.after(0.05 if step.rung is not Rung.DRAIN else 0.25, lambda: self.climb(vm))

    def evidence(self, vm: Vm) -> FenceEvidence:
        assert self.watch is not None
        queued = sum(self.kernel.queued_writes(path) for path in vm.locks)
        life = {"dead": Life.DEAD, "blocked": Life.BLOCKED}.get(vm.state, Life.RUNNING)
        return FenceEvidence(
            processes=(FencedProcess("qemu", 100, life, killed=vm.state == "blocked"),),
            pinned=vm.pinned,
            copied=vm.stubborn != "copy",
            drained=not queued,
            others=self.watch.others(vm.name),
            released=not any(item in self.kernel.descriptions for item in vm.locks.values()),
            cleaned=vm.cleaned,
            followed=vm.followed,
        )

    def take_rung(self, vm: Vm, rung: Rung, may_cut: bool) -> None:
        if rung is Rung.KILL:
            self._set(vm, "blocked" if vm.stubborn == "kill" else "dead")
        elif rung is Rung.DEATH and vm.stubborn != "kill":
            self._set(vm, "dead")
        elif rung is Rung.CUT and may_cut:
            for server in {item.server for item in vm.locks.values()}:
                self.kernel.cut_queue(server)
        elif rung is Rung.RELEASE and "release" not in vm.writing:
            vm.writing.add("release")
            self.release(vm, lambda: vm.writing.discard("release"))
        elif rung is Rung.CLEAN_UP:
            vm.cleaned = True
        elif rung is Rung.AFTER:
            vm.followed = True

    def meet(self, vm: Vm, rival: Rival) -> None:
        """A lock that the VM needs was refused: it writes to a disk that somebody else has."""
        vm.rivals[rival.path] = rival
        self.tell(vm)
        self.feed(lambda now: RivalMet(now, vm.name, rival))

    def _try_locks(self, vm: Vm) -> None:
        for rival in list(vm.rivals.values()):
            self.meet(vm, rival)

    # -- the daemon's own life ----------------------------------------------------------------------------------------

    def stop_daemon(self) -> None:
        self.waiting = []

    def continue_daemon(self) -> None:
        queued, self.waiting = self.waiting or [], None
        self.feed(Tick)
        for action in queued:
            action()

    def kill_daemon(self) -> None:
        if self.watch is not None:
            self.confirmed = {name: mount.confirmed for name, mount in self.watch.mounts.items()}
        self.watch, self.waiting = None, None

    def start_daemon(self) -> None:
        """A new daemon reads the state files, and finds out the rest."""
        self.watch, self._counted = Watch(self.wishes), {}
        for vm in self.vms.values():
            vm.granted.clear()
            vm.rungs.clear()
            self.tell(vm)

    def sleep(self) -> None:
        self.kernel.asleep = True
        self.stop_daemon()

    def awake(self, gap: float) -> None:
        self.kernel.asleep = False
        for vm in self.vms.values():
            if vm.executing:
                self._set(vm, "running")
        self.kernel.wake()
        queued, self.waiting = self.waiting or [], None
        self.feed(lambda now: WokeUp(now, gap, "the host was suspended"))
        for action in queued:
            action()
