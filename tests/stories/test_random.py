"""The watchdog under random events: its invariants after every step, the promise, and that everything goes on.

``VMGUARD_LONG=1`` plays twenty times as many.
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import replace

import pytest

from tests.stories.play import Story
from vmguard.core.watchdog.events import (
    Act,
    Acted,
    Adopted,
    Answer,
    Arm,
    Ask,
    Cause,
    Counters,
    Disarm,
    Effect,
    Event,
    Fence,
    Freeze,
    Hint,
    HintKind,
    Hold,
    LockId,
    LockInfo,
    MountSeen,
    Probe,
    Rival,
    RivalMet,
    StartRefused,
    Thaw,
    Tick,
    Unhold,
    VmGone,
    VmInfo,
    VmSeen,
    WokeUp,
)
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.policy import OnAtRisk, OnConflict, OnLost, Policy
from vmguard.core.watchdog.stance import Stance

TIMES = 20 if os.environ.get("VMGUARD_LONG") else 1
MOUNTS = {"nas": 10.0, "san": 30.0}
PROBLEMS = ["", "", "", "", "EIO", "ETIMEDOUT", "ESTALE"]
RIVAL = Rival("nas:0", "locked by another host")


class Chaos:
    """Drives a Watch with any events in any order, and keeps books of its own about what it may do."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.watch = Watch()
        self.now = 1000.0
        self.pending: list[tuple[str, Ask, float]] = []
        self.names = itertools.count()
        self.confirmed: dict[str, float] = {}
        #: the newest claim on each mount, and what a mount with an unknown past is given
        self.granted: dict[str, float] = {}
        self.refused: dict[LockId, int] = {}
        #: when the newest answer "kept" of each lock was asked
        self.kept: dict[LockId, float] = {}
        #: VMs that nobody but a person may let go on, and those that were told to have a rival
        self.held: set[str] = set()
        self.rivalled: set[str] = set()
        #: since when each VM stands still, and which of its locks were at risk then
        self.frozen: dict[str, tuple[float, set[LockId]]] = {}
        self.counters = dict.fromkeys(MOUNTS, 0)
        for name, lease in MOUNTS.items():
            self.feed(MountSeen(self.now, name, lease))

    def feed(self, event: Event) -> None:
        effects = self.watch.step(event)
        self.watch.check_invariants()
        if isinstance(event, VmSeen):
            self.granted = {name: mount.confirmed for name, mount in self.watch.mounts.items()}
        assert self.watch.wake_at() > self.now or not self.watch.vms, f"{event} is due again at once, for ever"
        for effect in effects:
            self.note(effect)
        on_their_way = {ask.lock for _, ask, _ in self.pending}
        assert all(mount.waiting <= on_their_way for mount in self.watch.mounts.values()), "waits for nothing"
        self.check_freezes()

    def note(self, effect: Effect) -> None:
        if isinstance(effect, Probe):
            self.pending += [(effect.mount, ask, self.now) for ask in effect.asks]
        elif isinstance(effect, Freeze):
            locks = self.watch.vms[effect.vm].info.locks
            at_risk = {lock.id for lock in locks if self.now >= self.end_of_safety(lock.mount)}
            self.frozen.setdefault(effect.vm, (self.now, at_risk))
        elif isinstance(effect, Hold):
            assert effect.vm in self.frozen or self.watch.vms[effect.vm].info.frozen, "held, but not frozen"
            self.held.add(effect.vm)
        elif isinstance(effect, Unhold):
            self.held.discard(effect.vm)
        elif isinstance(effect, Thaw) and effect.vm in self.held:
            raise AssertionError("thawed after a conflict, and no person said so")
        elif isinstance(effect, Fence) and effect.cause is Cause.CONFLICT:
            assert effect.vm in self.rivalled, "fenced over a conflict that it does not have"
        elif isinstance(effect, Thaw) and effect.vm in self.frozen:
            since, at_risk = self.frozen.pop(effect.vm)
            for lock in self.watch.vms[effect.vm].info.locks:
                if lock.id in at_risk:
                    assert max(self.kept.get(lock.id, 0.0), lock.granted or 0.0) >= since, "thawed on an old answer"
        elif isinstance(effect, Fence) and effect.cause is Cause.LOST:
            locks = self.watch.vms[effect.vm].info.locks
            assert any(self.refused.get(lock.id, 0) >= 2 for lock in locks), "fenced without two refusals"

    def check_freezes(self) -> None:
        """The heart of it, from books of our own: nobody runs on a mount that answered nothing sent lately."""
        if self.watch.disarmed_why:
            return
        for vm in self.watch.vms.values():
            policy = vm.info.policy
            if vm.stance is not Stance.RUNNING or policy.log_only or not vm.info.process:
                continue
            stops = policy.on_conflict in (OnConflict.FREEZE, OnConflict.FENCE)
            assert not (vm.info.rivals and stops), f"{vm.info.id} runs beside a rival"
            if policy.on_at_risk is OnAtRisk.IGNORE:
                continue
            for lock in vm.info.locks:
                lost = self.watch.mounts[lock.mount].locks[lock.id].lost
                ignored = lost and policy.on_lost is OnLost.IGNORE
                assert ignored or self.now < self.end_of_safety(lock.mount), f"{vm.info.id} runs"

    def end_of_safety(self, mount: str) -> float:
        confirmed = max(self.confirmed.get(mount, 0.0), self.granted.get(mount, 0.0))
        return confirmed + self.watch.mounts[mount].timeline.freeze

    # -- events -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.pass_time(self.random.choice([0.0, 0.01, 0.3, 1.0, 3.0, 12.0]))
        self.random.choice([self.answer] * 8 + [self.vm, self.vm, self.hint, self.session, self.rest, self.rest])()

    def pass_time(self, seconds: float) -> None:
        """The loop wakes up in time, except when the whole daemon stands still."""
        until = self.now + seconds
        if self.random.random() < 0.05:
            self.now = until + self.random.choice([0.5, 5.0, 60.0])
            return
        while self.watch.wake_at() < until:
            self.now = max(self.now, self.watch.wake_at())
            self.feed(Tick(self.now))
        self.now = until

    def answer(self) -> None:
        if not self.pending:
            return
        mount, ask, sent = self.pending.pop(self.random.randrange(len(self.pending)))
        problem = self.random.choice(PROBLEMS)
        if self.random.random() < 0.15:
            self.say_not_asked(mount, ask, sent, self.random.random() < 0.5)
            return
        self.say_answer(mount, ask, sent, problem, self.random.random() < 0.3)

    def say_not_asked(self, mount: str, ask: Ask, sent: float, reached: bool) -> None:
        if reached:
            self.confirmed[mount] = max(self.confirmed.get(mount, 0.0), sent)
        self.feed(Answer(self.now, mount, ask.lock, ask.serial, sent, "in use", reached, asked=False, kind="READ"))

    def say_answer(self, mount: str, ask: Ask, sent: float, problem: str, reached: bool = False) -> None:
        if not problem or reached:
            self.confirmed[mount] = max(self.confirmed.get(mount, 0.0), sent)
        if not problem:
            self.kept[ask.lock] = max(self.kept.get(ask.lock, 0.0), sent)
        if problem == "EIO" and not reached:
            self.refused[ask.lock] = self.refused.get(ask.lock, 0) + 1
        self.feed(Answer(self.now, mount, ask.lock, ask.serial, sent, problem, reached))

    def vm(self) -> None:
        name = f"vm{self.random.randrange(4)}"
        if name in self.watch.vms and self.random.random() < 0.4:
            self.feed(VmGone(self.now, name))
            self.frozen.pop(name, None)
            self.held.discard(name)
            self.rivalled.discard(name)
            return
        locks = []
        for mount in self.random.choice([["nas"], ["san"], ["nas", "san"]]):
            lock_id = LockId(name, (len(MOUNTS) if mount == "nas" else 0, self.random.randrange(2)))
            granted = self.random.choice([None, self.now - 0.1])
            locks.append(LockInfo(lock_id, mount, f"{mount}:{lock_id.key[1]}", granted=granted, through="1"))
        policy = Policy(
            on_at_risk=self.random.choice(list(OnAtRisk)),
            on_lost=self.random.choice(list(OnLost)),
            on_conflict=self.random.choice(list(OnConflict)),
            conflict_grace=self.random.choice([None, 5.0]),
            log_only=self.random.random() < 0.1,
        )
        rivals = (RIVAL,) if self.random.random() < 0.2 else ()
        (self.rivalled.add if rivals else self.rivalled.discard)(name)
        process = self.random.random() < 0.9
        self.feed(VmSeen(self.now, VmInfo(name, name, tuple(locks), policy, process, rivals=rivals)))

    def adopt(self, name: str) -> None:
        if not self.watch.vms[name].info.rivals:
            self.held.discard(name)
        self.feed(Adopted(self.now, name))

    def hint(self) -> None:
        mount = self.random.choice(list(MOUNTS))
        locks = list(self.watch.mounts[mount].locks)
        kind = self.random.choice(list(HintKind))
        self.feed(Hint(self.now, mount, kind, "a hint", self.random.choice(locks) if locks else None))

    def session(self) -> None:
        mount = self.random.choice(list(MOUNTS))
        self.counters[mount] += self.random.randrange(2)
        self.feed(Counters(self.now, mount, self.counters[mount], 0))

    def rest(self) -> None:
        name = f"vm{self.random.randrange(4)}"
        events: list[Event] = [
            WokeUp(self.now, 5.0, "suspended"),
            Disarm(self.now, self.now + 20, "maintenance"),
            Arm(self.now, "done"),
            Acted(self.now, name, Act.FREEZE, True),
            Acted(self.now, name, Act.THAW, self.random.random() < 0.5, "no"),
            RivalMet(self.now, name, RIVAL),
            StartRefused(self.now, name, "it must not run"),
            MountSeen(self.now, "nas", self.random.choice([10.0, 30.0])),
            MountSeen(self.now, "san", self.random.choice([10.0, 90.0])),
        ]
        if name in self.watch.vms and self.random.random() < 0.1:
            self.adopt(name)
            return
        self.feed(self.random.choice(events))

    # -- liveness -----------------------------------------------------------------------------------------------------

    def all_is_well(self, seconds: float) -> None:
        """From here on every question is answered with "kept", every order is carried out."""
        self.feed(Arm(self.now, "test"))
        for mount in self.watch.mounts.values():
            for lock_id in list(mount.locks):
                self.feed(Hint(self.now, mount.name, HintKind.OTHER, "fine", lock_id))
        until = self.now + seconds
        while self.now < until:
            soon = min(self.now + 1, max(self.now, self.watch.wake_at()))
            self.now = min(until, self.now + 0.001 if self.pending else soon)
            for _ in range(len(self.pending)):
                self.say_answer(*self.pending.pop(0), "")
            for vm in list(self.watch.vms.values()):
                if vm.pending is not None:
                    self.feed(Acted(self.now, vm.info.id, vm.pending, True))
                if vm.info.rivals:
                    self.feed(VmSeen(self.now, replace(vm.info, rivals=())))
                elif vm.held:
                    self.adopt(vm.info.id)
            self.feed(Tick(self.now))


@pytest.mark.parametrize("seed", range(40 * TIMES))
def test_any_order_of_events(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(120):
        chaos.step()
    chaos.all_is_well(15.0)
    for vm in chaos.watch.vms.values():
        lost = any(chaos.watch.mounts[lock.mount].locks[lock.id].lost for lock in vm.info.locks)
        assert lost or vm.stance in (Stance.RUNNING, Stance.FENCING), f"{vm.info.id} is {vm.stance}: {vm.why}"
        assert vm.stance is not Stance.RUNNING or vm.real is Stance.RUNNING


CALM = ["cut A {s}", "heal A {s}", "cut B {s}", "heal B {s}", "down {s}", "up {s}", "up {s} forgets", "up {s} deny=A"]
CALM += ["slow {s} 3", "slow {s} 0.002", "kill-daemon A", "start-daemon A", "hint A {s} lost 1 locks"]
NASTY = [*CALM, "stop-daemon A", "continue-daemon A", "suspend A", "resume A 5", "revoke A {s}", "end-grace {s}"]


def plot(seed: int, verbs: list[str]) -> dict[str, object]:
    """Two hosts, two servers, three VMs; B wants one of A's all the time; in the end all is mended."""
    dice = random.Random(seed)
    courteous = dice.random() < 0.5
    events: list[list[object]] = [[3, "new thief on B nas:one"]]
    state = {"A": False, "daemon": "runs", "asleep": False, "nas": True, "san": True}
    now = 5.0
    for _ in range(12):
        now += dice.choice([0.3, 2.0, 5.0, 9.0, 25.0])
        server = dice.choice(["nas", "san"])
        text = dice.choice(verbs).format(s=server)
        if possible(text, server, state):
            events.append([now, text])
    events += [[now + 1, text] for text in mend(state)]
    return {
        "servers": {"nas": {"courteous": courteous}, "san": {"courteous": courteous}},
        "vms": {
            "one": {"disks": ["nas:one"]},
            "two": {"disks": ["nas:two", "san:two"]},
            "other": {"host": "B", "disks": ["san:other"]},
        },
        "events": events,
        "until": now + 90,
    }


def possible(text: str, server: str, state: dict[str, object]) -> bool:
    """Whether it can happen now; notes what follows from it."""
    word = text.split()[0]
    moves = {
        "down": (server, True, False),
        "up": (server, False, True),
        "kill-daemon": ("daemon", "runs", "dead"),
        "start-daemon": ("daemon", "dead", "runs"),
        "stop-daemon": ("daemon", "runs", "stopped"),
        "continue-daemon": ("daemon", "stopped", "runs"),
        "suspend": ("asleep", False, True),
        "resume": ("asleep", True, False),
    }
    if word not in moves:
        return True
    key, before, after = moves[word]
    if state[key] != before or (word in ("suspend", "resume") and state["daemon"] != "runs"):
        return False
    if state["asleep"] and word.endswith("-daemon"):
        return False
    state[key] = after
    return True


def mend(state: dict[str, object]) -> list[str]:
    texts = [f"up {name}" for name in ("nas", "san") if not state[name]]
    texts += ["resume A 5"] if state["asleep"] else []
    texts += {"dead": ["start-daemon A"], "stopped": ["continue-daemon A"]}.get(str(state["daemon"]), [])
    texts += [f"{verb} {host} {name}" for verb in ("heal",) for host in ("A", "B") for name in ("nas", "san")]
    return texts + [f"slow {name} 0.002" for name in ("nas", "san")]


@pytest.mark.parametrize("seed", range(40 * TIMES))
def test_the_promise_in_a_random_world(seed: int) -> None:
    story = Story(plot(seed, CALM))
    lines = story.play()
    # A dead daemon freezes nobody: then the pin alone stands between the VM and the new owner's data.
    allowed = {"runs"} if any("kill-daemon" in line for line in lines) else set()
    assert set(story.sim.violations) <= allowed, "\n".join(lines)
    all_go_on(story, lines)


@pytest.mark.parametrize("seed", range(40 * TIMES))
def test_no_foreign_write_in_a_nasty_world(seed: int) -> None:
    story = Story(plot(seed, NASTY))
    lines = story.play()
    assert set(story.sim.violations) <= {"runs"}, "\n".join(lines)
    all_go_on(story, lines)


def all_go_on(story: Story, lines: list[str]) -> None:
    for host in story.hosts.values():
        for vm in host.vms.values():
            assert vm.state == "running", f"{vm.name} is {vm.state} in the end\n" + "\n".join(lines)
