"""How often each VM is looked at: within the promise as long as that can be paid, and never at any price."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.simulated_loop import SimulatedLoop
from vmguard.core.locks.claim_states import State
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.scan.periodic import MAX_INTERVAL_S, PeriodicScan, pace
from vmguard.daemon.scan.settling_files import STEADY_S

#: seconds within which a file that nobody announced must be pinned (issue 3), and what the lock itself may take of them
PROMISE, LOCKING = 2.0, 0.15
#: seconds of CPU that a look at one process with two files costs, generously
COST = 20e-6


class World:
    """Many VMs, a clock of its own, and looks that cost CPU time but no real one."""

    def __init__(self, folder: Path, vms: int, cost: float) -> None:
        self.used = 1000.0
        self.cost = cost
        self.loop = SimulatedLoop(1000.0)
        self.registry = Registry(str(folder))
        for number in range(vms):
            vm = GuardedVm("libvirt", f"vm{number}", f"{number}", state=State.RUNNING)
            self.registry._vms[vm.id] = vm
        self.looked: dict[str, list[float]] = {vm.id: [] for vm in self.registry}
        self.broken = ""
        self.scan = PeriodicScan(self.loop, self.registry, self.look, 1.0, lambda: self.used)

    def look(self, vm: GuardedVm, now: float) -> None:
        self.used += self.cost
        self.looked.setdefault(vm.id, []).append(now)
        if vm.id == self.broken:
            raise RuntimeError("this one cannot be looked at")

    def pass_by(self, seconds: float) -> None:
        self.loop.pass_by(seconds, step=0.002)

    def run(self, seconds: float) -> None:
        self.scan.start()
        self.pass_by(seconds)

    def longest(self) -> float:
        """The longest time for which any VM was not looked at, apart from the first rounds, which learn the cost."""
        gaps = [
            after - before for times in self.looked.values() for before, after in zip(times, times[1:], strict=False)
        ]
        return max(gaps)


@pytest.mark.parametrize("vms", [1, 7, 100, 500, 1000, 3000])
def test_every_vm_is_looked_at_soon_enough_for_the_promise(tmp_path: Path, vms: int) -> None:
    world = World(tmp_path, vms, COST)
    world.run(30)
    assert len(world.looked) == vms
    assert world.longest() + STEADY_S + LOCKING < PROMISE


def test_what_costs_little_is_done_more_often(tmp_path: Path) -> None:
    world = World(tmp_path, 100, COST)
    world.run(30)
    assert world.scan.interval == 1.0


def test_beyond_a_tenth_of_a_processor_the_promise_is_given_up_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, 1000, 0.0005)
    world.run(60)
    assert 4.9 < world.longest() < 5.2
    [said] = [record.getMessage() for record in caplog.records]
    assert "1000 VMs" in said
    assert "after up to 5.0 s" in said


def test_a_vm_that_cannot_be_looked_at_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, 10, COST)
    world.broken = "libvirt-3"
    world.run(10)
    assert all(len(times) > 5 for times in world.looked.values())


def test_vms_come_and_go_between_the_looks(tmp_path: Path) -> None:
    world = World(tmp_path, 0, COST)
    world.run(3)
    vm = GuardedVm("libvirt", "late", "late", state=State.RUNNING)
    world.registry._vms[vm.id] = vm
    world.pass_by(1.3)
    assert world.looked[vm.id]


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [(0.0, 1.0), (0.004, 1.0), (0.006, 1.2), (0.02, MAX_INTERVAL_S), (0.13, MAX_INTERVAL_S), (0.2, 2.0), (1.0, 10.0)],
)
def test_the_pace(cost: float, seconds: float) -> None:
    assert pace(cost, 1.0) == pytest.approx(seconds)
