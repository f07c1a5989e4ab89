"""Two servers, one of which serves: in the right order the VMs live on at the other node; in a wrong one they are dead.

A wrong order costs the locks, so the VMs of that share; what it must never cost is the data. The control of each is a
VM on a host without vmguard, whose stale writes land on what the next owner wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, Pair
from tests.scenarios import world_rows
from tests.support.guarded_guests import Guest
from tests.support.watched_guests import LONG, clean_up, codes, dead, started, vmguard, wait_until
from tests.support.worlds import Site, World

pytestmark = pytest.mark.lab

ROUNDS = 10 if LONG else 1
WRONG: dict[str, dict[str, Any]] = {
    "another name": {"scope": ""},
    "database left behind": {"state": False},
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield Site(lab, World("", "pair"), lab.pair())


def pair(site: Site) -> Pair:
    assert isinstance(site.server, Pair)
    return site.server


@pytest.mark.parametrize("dies", [False, True], ids=["planned", "its node dies"])
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_move_in_the_right_order_costs_no_vm(site: Site, dies: bool, number: int) -> None:
    found = [started(site.a, f"right-{dies}-{number}-{count}") for count in range(3)]
    before = pair(site).active
    if dies:
        pair(site).reboot()
    else:
        pair(site).move()
    assert pair(site).active is not before
    for guest, vm in found:
        vm.wait_beats(10, timeout=60)
        assert "E" not in vm.beats()
        assert "lock.lost" not in codes(site.a, guest)
        wait_until("in order", lambda guest=guest: site.a.check(guest.name)["status"] == "OK", 40, site.a.log)  # type: ignore[misc]
        assert site.locked(guest.paths[0])
    clean_up(site.a, *found)


def costs_the_vm_and_no_data(site: Site, guest: Guest, wrong: dict[str, Any]) -> str:
    """Move in a wrong order; return what the history says about the VM.

    Where locks are lost before the move, the control's host reclaims in the move the lost lock that nobody there has
    closed: B does not get that disk, and the control is that its VM writes on without having had a lock.
    """
    guest, vm = started(site.a, guest.name)
    beside = Guest(f"{guest.name}-beside")
    with world_rows.beside(site, beside) as bare:
        pair(site).move(**wrong)
        wait_until("dead", lambda: dead(vm), 120, site.a.log)
        assert "lock.lost" in codes(site.a, guest)
        assert "." not in vm.beats().partition("E")[2], "a write was accepted after the lock was lost"
        taken = [guest] if wrong.get("unlock_first") else [guest, beside]
        for one in taken:
            site.take_over(one)
            world_rows.mark(site, one)
        bare.wait_beats(3, timeout=60)
        assert world_rows.beat(site, beside) != world_rows.MARK, "the control shows nothing"
        assert world_rows.beat(site, guest) == world_rows.MARK
    site.a.wait_released(guest, 60)
    for one in taken:
        site.let_go(one)
    return vmguard(site.a, "history", guest.name)


@pytest.mark.parametrize("name", WRONG)
def test_a_move_in_a_wrong_order_costs_the_vm_and_no_data(site: Site, name: str) -> None:
    said = costs_the_vm_and_no_data(site, Guest(name.replace(" ", "-")), WRONG[name])
    print(said)
    assert "LOST" in said


if LONG:

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("name", "kernel", "wrong"),
        [("unlocked-first", "6.12", {"unlock_first": True}), ("not-announced", None, {"announce": False})],
    )
    def test_more_wrong_orders(name: str, kernel: str | None, wrong: dict[str, Any]) -> None:
        """Linux 6.12 takes NFSv4 locks away by unlock_filesystem, 6.1 those of NFSv3 alone."""
        with Lab() as lab:
            site = Site(lab, World("", "pair"), lab.pair(kernel=kernel))
            print(costs_the_vm_and_no_data(site, Guest(name), wrong))
