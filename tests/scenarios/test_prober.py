"""A lock that moves is never gone: a rival tries in a tight loop while it goes from description to description."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import Job, Lab
from tests.lab.guest import PYTHON, REPOSITORY
from tests.scenarios.prober import Prober
from tests.support.guarded_guests import RUN_DIR, Guarded, Guest, two_nodes

pytestmark = pytest.mark.lab

ROUNDS = 500 if os.environ.get("VMGUARD_LONG") else 50
SCRIPT = f"{REPOSITORY}/tests/scenarios/inside/churn.py"

Pair = tuple[Guarded, Guarded]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Lab() as lab:
        _, a, b = two_nodes(lab)
        yield a, b


def seconds(job: Job, timeout: float) -> float:
    return float(job.wait_for(r"^done ([\d.]+)$", timeout)[1])


@pytest.mark.timeout(1800)
def test_a_rival_never_gets_in_while_pins_come_and_go(pair: Pair) -> None:
    a, b = pair
    guest = Guest("moving")
    a.make_disks(guest)
    assert a.claim(guest).returncode == 0
    with Prober(b.host, *guest.paths) as rival:
        words = [str(ROUNDS), f"{RUN_DIR}/{guest.name}.pid", guest.paths[0], "-uuid", guest.uuid]
        job = a.host.spawn([PYTHON, SCRIPT, *words], stdin=True)
        took = seconds(job, 1500)
    print(f"{ROUNDS} pins in {took:.1f} s; the rival tried {rival.tries} times and got in {len(rival.wins)} times")
    assert rival.wins == []
    assert rival.tries > 5 * ROUNDS
    job.end_input()
    a.wait_released(guest)


def test_negative_control_a_lock_that_moves_in_one_step_lets_the_rival_in(pair: Pair) -> None:
    a, b = pair
    guest = Guest("careless")
    a.make_disks(guest)
    job = a.host.spawn([PYTHON, SCRIPT, "2000", "careless", guest.paths[0]], stdin=True)
    with Prober(b.host, *guest.paths) as rival:
        took = seconds(job, 120)
    print(
        f"2000 careless moves in {took:.1f} s: the rival tried {rival.tries} times and got in {len(rival.wins)} times"
    )
    assert rival.wins
    job.kill()
