"""A breadth-first search over all states of a world: the shortest way to a violation is a story."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.machines import Broken
from tests.model.world import Host, Server, State, Violation, World


class Counterexample(NamedTuple):
    """What is broken, and all that happened before."""

    problem: str
    story: list[str]


@dataclass
class Result:
    """What a search has found."""

    states: int
    steps: int
    machine_states: int
    real_steps: int
    seconds: float
    depth: int
    #: whether there was nothing left to look at
    complete: bool
    found: Counterexample | None = None

    def __str__(self) -> str:
        end = "until it broke" if self.found else "complete" if self.complete else "stopped at its limit"
        return (
            f"{self.states:,} states, {self.steps:,} steps, depth {self.depth}, {self.machine_states:,} states of one"
            f" real machine ({self.real_steps:,} real steps), {self.seconds:.1f} s, {end}"
        )


class _Packed:
    """States as single numbers: hosts and servers are kept once each."""

    def __init__(self) -> None:
        self._hosts: dict[Host, int] = {}
        self._servers: dict[Server, int] = {}
        self._host_list: list[Host] = []
        self._server_list: list[Server] = []

    def pack(self, state: State) -> int:
        a, b = (self._host(host) for host in state.hosts)
        return a | b << 21 | self._server(state.server) << 42

    def unpack(self, packed: int) -> State:
        mask = (1 << 21) - 1
        hosts = self._host_list[packed & mask], self._host_list[packed >> 21 & mask]
        return State(self._server_list[packed >> 42], hosts)

    def _host(self, host: Host) -> int:
        number = self._hosts.setdefault(host, len(self._host_list))
        if number == len(self._host_list):
            self._host_list.append(host)
        return number

    def _server(self, server: Server) -> int:
        number = self._servers.setdefault(server, len(self._server_list))
        if number == len(self._server_list):
            self._server_list.append(server)
        return number


def search(world: World, most: int = 10_000_000, seconds: float = float("inf")) -> Result:
    """Look at all states that can be reached, nearest first, until one breaks something or a limit is reached."""
    began = time.monotonic()
    packed = _Packed()
    first = packed.pack(world.first())
    #: each state in the order in which it was found, and the place of the one before it
    order, before = array("Q", [first]), array("L", [0])
    known = {first}
    at = steps = depth = 0
    next_depth = 1

    def result(found: Counterexample | None = None) -> Result:
        spent = time.monotonic() - began
        real = world.machines
        return Result(len(order), steps, len(real), real.steps, spent, depth, at >= len(order), found)

    while at < len(order) and len(order) < most:
        if at == next_depth:
            depth, next_depth = depth + 1, len(order)
        if at % 1024 == 0 and time.monotonic() - began > seconds:
            break
        state = packed.unpack(order[at])
        what = ""
        try:
            for label, reached in world.steps(state):
                steps, what = steps + 1, label
                world.check(reached)
                what = ""
                number = packed.pack(reached)
                if number not in known:
                    known.add(number)
                    order.append(number)
                    before.append(at)
        except (Violation, Broken) as problem:
            return result(Counterexample(str(problem), _story(world, packed, order, before, at, what, problem)))
        at += 1
    return result()


def _story(
    world: World, packed: _Packed, order: array[int], before: array[int], at: int, last: str, problem: Exception
) -> list[str]:
    """Return what happened, a line each, up to what broke the promise."""
    way = [at]
    while way[-1]:
        way.append(before[way[-1]])
    way.reverse()
    lines, second = [], 0
    for here, there in zip(way, way[1:], strict=False):
        state = packed.unpack(order[here])
        what = next(what for what, reached in world.steps(state) if packed.pack(reached) == order[there])
        second += what == "a second passes"
        if what != "a second passes":
            lines.append(f"{second:3} s  {what}")
    if last:
        lines.append(f"{second:3} s  {last}")
    return [*lines, f"{second:3} s  BROKEN: {problem}"]
