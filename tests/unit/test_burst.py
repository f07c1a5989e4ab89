"""When something happened to a VM it is looked at closely, then cheaply for a second, and closely once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.simulated_loop import SimulatedLoop
from vmguard.core.locks.claim_states import State
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.scan.burst import SCHEDULE_S, ScanBursts

FULL, CHEAP = "full", "cheap"


class World:
    """A clock of its own, and a book of all looks: when, how, at which VM."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop(1000.0)
        self.looks: list[tuple[float, str, str]] = []
        self.bursts = ScanBursts(self.loop, lambda vm: self.look(FULL, vm), lambda vm: self.look(CHEAP, vm))

    def look(self, how: str, vm: GuardedVm) -> None:
        self.looks.append((round(self.loop.now() - 1000.0, 3), how, vm.name))

    def pass_by(self, seconds: float) -> None:
        self.loop.pass_by(seconds)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.loop.close()


def vm(name: str) -> GuardedVm:
    return GuardedVm("libvirt", name, name, state=State.RUNNING)


def test_one_event(world: World) -> None:
    world.bursts.begin(vm("web"))
    world.pass_by(2.0)
    assert [how for _, how, _ in world.looks] == [FULL, *[CHEAP] * 6, FULL]
    assert [when for when, _, _ in world.looks] == pytest.approx(SCHEDULE_S, abs=0.002)


def test_more_events_begin_the_second_anew_and_do_not_add_to_it(world: World) -> None:
    """A disk that is opened four times in 30 ms, as at the switch of a live migration."""
    web = vm("web")
    for _ in range(4):
        world.bursts.begin(web)
        world.pass_by(0.010)
    world.pass_by(2.0)
    count = Counter(how for _, how, _ in world.looks)
    assert count[FULL] == 4 + 1  # one at each event, and the last
    assert count[CHEAP] == 3 + 6  # at 5 ms of those that were cut short, and all of the last one's
    assert world.looks[-1][0] == pytest.approx(0.030 + 1.0, abs=0.010)


def test_one_vm_does_not_cut_short_the_other_ones_and_a_forgotten_one_is_left_alone(world: World) -> None:
    world.bursts.begin(vm("web"))
    world.pass_by(0.020)
    world.bursts.begin(vm("db"))
    world.pass_by(0.010)
    world.bursts.forget(vm("db"))
    world.pass_by(2.0)
    assert [name for _, _, name in world.looks].count("web") == len(SCHEDULE_S)
    assert [when for when, _, name in world.looks if name == "db"] == pytest.approx([0.02, 0.025], abs=0.003)


@pytest.mark.parametrize("cost", [0.0, 0.1])
def test_who_opens_a_file_without_pause_has_it_looked_at_rarely(cost: float) -> None:
    """Before, each event began with a full scan: whoever may read an image kept the loop with nothing but opens."""
    spent = 0.0

    def look(vm: GuardedVm) -> None:
        nonlocal spent
        spent += cost
        fulls.append(loop.now())

    loop, fulls = SimulatedLoop(1000.0), list[float]()
    bursts, web = ScanBursts(loop, look, lambda vm: None, lambda: spent), vm("web")
    for _ in range(1000):
        bursts.event(web)
        loop.pass_by(0.001)
    loop.pass_by(4.0)
    assert fulls[0] == pytest.approx(1000.0, abs=0.001), "the first one is looked at at once"
    assert len(fulls) <= (6 if cost else 110)
    assert fulls[-1] > 1001.0, "and the last one is not forgotten"
    bursts.end(web)
    loop.close()
