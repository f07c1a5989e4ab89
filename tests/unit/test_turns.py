"""The time for looks at strange processes: bounded in each round, and shared out so that nobody is forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from vmguard.daemon.scan.turns import ROUND_S, Turns


class World:
    """Processes, what a look at each costs, and how often each was looked at."""

    def __init__(self, costs: dict[int, float]) -> None:
        self.costs = costs
        self.spent = 0.0
        self.looks: Counter[int] = Counter()
        self.turns = Turns(lambda: self.spent)

    def look(self, pid: int) -> None:
        self.spent += self.costs[pid]
        self.looks[pid] += 1

    def rounds(self, count: int) -> float:
        """Go some rounds; return the longest one's CPU time."""
        longest = 0.0
        for _ in range(count):
            before = self.spent
            self.turns.go_round(list(self.costs), self.look)
            longest = max(longest, self.spent - before)
        return longest


def test_in_every_round_all_are_looked_at_where_that_is_cheap() -> None:
    world = World(dict.fromkeys(range(500), 0.00005))
    world.rounds(3)
    assert set(world.looks.values()) == {3}


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(lambda number: 0.02, id="with many descriptors"),
        pytest.param(lambda number: 0.0005, id="many"),
        pytest.param(lambda number: 0.02 if number % 2 else 0.0005, id="both"),
    ],
)
def test_a_round_is_bounded_and_everybody_has_his_turn(hostile: Callable[[int], float]) -> None:
    world = World({number: hostile(number) for number in range(200)})
    assert world.rounds(400) <= ROUND_S + 0.02 + 1e-9
    assert min(world.looks.values()) >= 2


def test_what_costs_much_does_not_delay_what_costs_little() -> None:
    world = World({**dict.fromkeys(range(1000), 0.02), **dict.fromkeys(range(1000, 1010), 0.0001)})
    world.rounds(700)  # by now it is known what each of them costs
    before = {pid: world.looks[pid] for pid in range(1000, 1010)}
    world.rounds(10)
    assert all(world.looks[pid] == before[pid] + 10 for pid in before)


def test_a_process_that_has_just_come_is_looked_at_at_once_if_there_is_time() -> None:
    world = World({1: 0.001, 2: ROUND_S})
    world.turns.go_round([], world.look)
    assert world.turns.look(1, world.look)
    assert world.turns.look(2, world.look)
    assert not world.turns.look(1, world.look)
    world.turns.go_round([], world.look)
    assert world.turns.look(1, world.look)
