"""The table of probes in simulated time: how a server answers, times how a VM uses its disk, times what happens.

In each cell the VM is frozen when that is due and not before, and the verdict is right: KEPT lets it go on, LOST kills
it. What a probe itself makes of each answer is in tests/unit/test_lock_probe.py; tests/scenarios/test_probe.py and
test_delegations.py have cells of this table on real kernels.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.stories.play import Story

#: what the server does -> how it answers SEEK at first, what happens at second 15, whether it is asked by READ alone
SERVERS: dict[str, tuple[str, str, bool]] = {
    "4.2, SEEK right": ("right", "", False),
    "4.2, SEEK absent": ("absent", "", False),
    "4.2, SEEK lost later": ("right", "seek nas absent", False),
    "4.2, SEEK lost and found": ("absent", "seek nas right", False),
    "4.2, EINVAL": ("odd", "", False),
    "4.2, EINVAL later": ("right", "seek nas odd", False),
    "4.1, READ": ("right", "", True),
}
#: how the VM uses its disk -> whether a page of it can always be read past the page cache
VMS = {"cache=none, or idle": False, "busy, writeback": True}
CELLS = list(itertools.product(SERVERS, VMS))
LEASE, FREEZE = 10.0, 8.0


class Cell:
    """A VM on A and a server that is one row of the table."""

    def __init__(self, server: str, vm: str, events: list[list[Any]], **plot: Any) -> None:
        seek, later, by_read = SERVERS[server]
        self.busy = VMS[vm] and (by_read or "absent" in (seek, later.rpartition(" ")[2]) or "EINVAL" in server)
        events = [*([[15, later]] if later else []), *([[5, "busy A nas:web"]] if VMS[vm] else []), *events]
        servers = {"nas": {"lease": LEASE, "grace": LEASE, "seek": seek}}
        self.story = Story({"servers": servers, "vms": {"web": {"disks": ["nas:web"]}}, "events": events, **plot})
        if by_read:
            self.story.hosts["A"].by_read.add("nas")
        self.lines = self.story.play()

    def when(self, word: str) -> list[float]:
        """The seconds of A's lines with a word."""
        found = [line.split(maxsplit=2) for line in self.lines if word in line]
        return [float(second) for second, who, _ in found if who == "A"]

    @property
    def state(self) -> str:
        vm = self.story.hosts["A"].vms.get("web")
        return "gone" if vm is None else vm.state


@pytest.mark.parametrize(("server", "vm"), CELLS)
def test_a_healthy_vm_is_never_frozen(server: str, vm: str) -> None:
    cell = Cell(server, vm, [], until=700)
    assert (cell.state, cell.when("stands still"), cell.story.sim.violations) == ("running", [], []), cell.lines


@pytest.mark.parametrize(("server", "vm"), CELLS)
def test_a_vm_that_is_cut_off_is_frozen_in_time_and_fenced_once_another_host_had_its_disk(server: str, vm: str) -> None:
    events = [[40, "cut A nas"], [51, "start web on B"], [70, "heal A nas"], [72, "busy A nas:web no"]]
    cell = Cell(server, vm, events, until=120)
    (frozen,) = cell.when("stands still")
    assert 40 + FREEZE - 1.5 <= frozen < 40 + LEASE, cell.lines
    assert cell.when("lock.lost"), cell.lines
    assert (cell.state, cell.when("vm.thaw"), cell.story.sim.violations) == ("gone", [], []), cell.lines
    assert cell.story.hosts["B"].vms["web"].state == "running"


@pytest.mark.parametrize(("server", "vm"), CELLS)
def test_a_storage_reboot_with_a_reclaim_kills_no_vm(server: str, vm: str) -> None:
    cell = Cell(server, vm, [[40, "down nas"], [70, "up nas"], [100, "busy A nas:web no"]], until=150)
    frozen, thawed = cell.when("stands still"), cell.when("vm.thaw")
    assert len(frozen) == len(thawed) == 1, cell.lines
    assert 40 + FREEZE - 1.5 <= frozen[0] < 40 + LEASE, cell.lines
    assert (thawed[0] >= 100) is cell.busy, "a page that cannot be read leaves the lock in doubt"
    assert (cell.state, cell.when("lock.lost"), cell.story.sim.violations) == ("running", [], []), cell.lines


@pytest.mark.parametrize(("server", "vm"), CELLS)
def test_an_error_of_the_server_s_own_disk_freezes_and_never_kills(server: str, vm: str) -> None:
    cell = Cell(server, vm, [[40, "error nas:web EIO"], [80, "error nas:web"], [90, "busy A nas:web no"]], until=150)
    assert not {*cell.when("lock.lost"), *cell.when("vm.fence")}, cell.lines
    assert (cell.state, cell.story.sim.violations) == ("running", []), cell.lines
    assert bool(cell.when("stands still")) is not cell.busy, "where nothing can be read no error is seen"


def test_control_a_probe_that_believes_any_answer_keeps_a_vm_running_that_is_cut_off() -> None:
    """Whoever believes the client's own answer never freezes; whoever takes EINVAL for silence always does."""
    events = [[40, "cut A nas"], [51, "start web on B"], [70, "heal A nas"]]
    believed = {"believes-all": True, "records": False, "until": 69}
    cells = {server: Cell(server, "cache=none, or idle", events, **believed) for server in SERVERS}
    wrong = {server for server, cell in cells.items() if cell.story.sim.violations}
    assert wrong == {"4.2, SEEK absent", "4.2, SEEK lost later", "4.2, SEEK lost and found"}
    odd = Cell("4.2, EINVAL", "cache=none, or idle", [], until=100, **{"believes-all": True})
    assert odd.state == "frozen"
