"""Measuring in turns: whatever the machine does meanwhile, it does to all contestants."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol


class Contestant(Protocol):
    def round(self) -> None: ...


def take_turns(contestants: Sequence[Contestant], rounds: int, warm_up: int) -> int:
    """The number of rounds that count: less than were asked for when a person breaks it off."""
    done = 0
    try:
        for number in range(warm_up + rounds):
            for one in contestants if number % 2 else contestants[::-1]:  # nobody is always the first
                one.round()
            done = number + 1 - warm_up
            print(f"\rround {done} of {rounds} ", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(" broken off", end="", file=sys.stderr)
    print(file=sys.stderr)
    return done
