"""The daemon's loop: however much is readable, deadlines are kept, and everybody has his turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.simulated_loop import SimulatedLoop

PEERS = 30
#: seconds that it takes to serve one peer
COST = 0.01


class Peers:
    """Pipes that always have something to read."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        self.served: list[int] = []
        self.pipes = [os.pipe() for _ in range(PEERS)]
        for number, (read, write) in enumerate(self.pipes):
            os.write(write, b"x")
            self.loop.watch(read, self.reader(number))

    def reader(self, number: int) -> Callable[[], None]:
        def serve() -> None:
            self.loop.time += COST
            self.served.append(number)

        return serve

    def close(self) -> None:
        self.loop.close()
        for pipe in self.pipes:
            for fd in pipe:
                os.close(fd)


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers()
    yield peers
    peers.close()


def test_a_deadline_does_not_wait_until_all_have_been_served(peers: Peers) -> None:
    late: list[float] = []
    due = peers.loop.time + 0.05
    peers.loop.call_at(due, lambda: late.append(peers.loop.time - due))
    while not late:
        peers.loop.turn()
    assert late[0] <= 3 * COST
    assert len(peers.served) < PEERS


def test_nobody_is_served_twice_before_all_others_have_been_served_once(peers: Peers) -> None:
    while len(peers.served) < 3 * PEERS:
        peers.loop.turn()
    for begin in range(0, 3 * PEERS, PEERS):
        assert sorted(peers.served[begin : begin + PEERS]) == list(range(PEERS))


def test_what_is_to_come_after_the_reading_comes_after_all_of_it(peers: Peers) -> None:
    before: list[int] = []
    peers.loop.call_in(0.0, lambda: peers.loop.call_after_reading(lambda: before.append(len(set(peers.served)))))
    for _ in range(2 * PEERS):
        peers.loop.turn()
    assert before == [PEERS]


def test_a_number_that_is_used_again_is_not_served_for_its_old_owner(peers: Peers) -> None:
    """One callback closes all other peers, and the number of one of them goes to another pipe at once."""
    loop, mine = peers.loop, peers.pipes[0][0]
    loop.unwatch(mine)
    reused: list[int] = []

    def take_over() -> None:
        for read, _ in peers.pipes[1:]:
            loop.unwatch(read)
            loop.watch(read, lambda: reused.append(1))
        loop.unwatch(mine)

    for read, _ in peers.pipes[1:]:
        loop.unwatch(read)
    loop.watch(mine, take_over)
    for number, (read, _) in enumerate(peers.pipes[1:], 1):
        loop.watch(read, peers.reader(number))
    loop.turn()
    served_by_the_old = [number for number in peers.served if number]
    loop.turn()
    assert reused
    assert [number for number in peers.served if number] == served_by_the_old
