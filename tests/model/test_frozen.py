"""A machine that was kept as a value goes on like one that was not; and no attribute of it is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.model.frozen import FIELDS, OLD_S, freeze, thaw
from tests.model.machines import LOCK, MOUNT, Machines, Setup, Told
from vmguard.core.watchdog.events import Answer, Ask, Counters, LockInfo, MountSeen, Probe, Tick, Token, VmInfo, VmSeen
from vmguard.core.watchdog.lease import MountLease
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.stance import Vm
from vmguard.core.watchdog.states import Lock, Sessions
from vmguard.core.watchdog.timing import timeline

SETUP = Setup()
INFO = LockInfo(LOCK, MOUNT, f"{MOUNT}:web.qcow2", True, 0.0, "fd", 1)
VM = VmInfo("web", "VM 'web'", (INFO,))
EVENTS = st.sampled_from(["tick", "kept", "kept, record ours", "claimed since", "EIO", "counters"])


def test_every_attribute_is_a_time_plain_or_left_out_with_a_reason() -> None:
    parts: list[object] = [
        Watch(SETUP.wishes),
        MountLease(MOUNT, timeline(SETUP.lease, SETUP.wishes), 0.0),
        Lock(INFO, 1),
        Sessions(),
        Vm(VM),
    ]
    assert {type(part) for part in parts} == set(FIELDS)
    for part in parts:
        fields = FIELDS[type(part)]
        assert sorted(fields.times + fields.plain + fields.left_out) == sorted(vars(part)), type(part).__name__


class Plain:
    """The machine as the daemon has it, told the same events at their real times."""

    def __init__(self) -> None:
        self.watch, self.now, self.ask, self.sent, self.sessions = Watch(SETUP.wishes), 0.0, Ask(LOCK, 0), 0.0, 0
        self.take(Counters(0.0, MOUNT, 0, 0))
        self.take(MountSeen(0.0, MOUNT, SETUP.lease))
        self.take(VmSeen(0.0, VM))

    def take(self, event: Tick | Answer | Counters | MountSeen | VmSeen) -> list[str]:
        effects = self.watch.step(event)
        for effect in effects:
            if isinstance(effect, Probe):
                self.ask, self.sent = effect.asks[0], self.now
        return [type(effect).__name__.lower() for effect in effects]

    def tell(self, told: Told) -> list[str]:
        if told[0] == "tick":
            self.now += 1.0
            return self.take(Tick(self.now))
        if told[0] == "counters":
            self.sessions += 1
            return self.take(Counters(self.now, MOUNT, self.sessions, self.sessions, 0, 0, self.sessions))
        token = Token(told[3], "the other host") if isinstance(told[3], int) else None
        problem, reached = str(told[1]), bool(told[2])
        return self.take(Answer(self.now, MOUNT, LOCK, self.ask.serial, self.sent, problem, reached, True, "", token))


TOLD: dict[str, Told] = {
    "tick": ("tick",),
    "kept": ("answer", "", True, None),
    "kept, record ours": ("answer", "", True, 1),
    "claimed since": ("answer", "", True, 2),
    "EIO": ("answer", "EIO", False, None),
    "counters": ("counters", True),
}


@given(st.lists(EVENTS, max_size=40))
def test_a_machine_that_was_kept_goes_on_like_one_that_was_not(names: list[str]) -> None:
    machines, plain = Machines(SETUP), Plain()
    number = machines.tell(machines.tell(machines.fresh, ("counters", False)).state, ("start", 1)).state
    for name in names:
        if TOLD[name][0] == "answer" and not machines.is_waiting(number):
            continue
        orders, said = machines.tell(number, TOLD[name]), plain.tell(TOLD[name])
        number = orders.state
        assert list(orders.orders) == [word for word in said if word in ("freeze", "thaw", "fence")]
        assert bool(orders.asked) == ("probe" in said)


def test_times_that_are_too_old_to_matter_keep_their_order() -> None:
    states = []
    for far in (0.0, 50.0):
        watch = Watch(SETUP.wishes)
        watch.step(MountSeen(0.0, MOUNT, SETUP.lease))
        watch.step(VmSeen(0.0, VM))
        watch.now = OLD_S * 3 + far
        states.append(freeze(watch, 0.5))
    assert states[0][3] == states[1][3]
    again, _ = thaw(states[0], SETUP.wishes, SETUP.lease)
    assert again.mounts[MOUNT].confirmed < -OLD_S
