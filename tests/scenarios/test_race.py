"""Two hosts claim the same disks at the same moment, again and again: one wins, the other has nothing."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import Any

import pytest

from tests.lab import Job, Lab
from tests.lab.guest import PYTHON, REPOSITORY
from tests.support.guarded_guests import HOOK, SHARE, Guarded, Guest, two_nodes

pytestmark = pytest.mark.lab

ROUNDS = 200 if os.environ.get("VMGUARD_LONG") else 20
DISKS = 3
#: what a claim holds of each disk: byte 0, 2-99, 300-EOF
PIECES = 3


class Racer:
    """One host's side of the race."""

    def __init__(self, node: Guarded, guest: Guest) -> None:
        node.host.put("/tmp/race.xml", guest.xml.encode())
        words = [PYTHON, f"{REPOSITORY}/tests/scenarios/inside/race.py", HOOK, guest.name, "/tmp/race.xml"]
        self.job: Job = node.host.spawn(words, stdin=True)
        self.name = node.name
        self.answers = 0

    def order(self, text: str) -> None:
        self.job.send(f"{text}\n".encode())

    def answer(self) -> dict[str, Any]:
        self.answers += 1
        deadline = time.monotonic() + 60
        while True:
            lines = self.job.output()[0].splitlines(keepends=True)
            if len(lines) >= self.answers and lines[self.answers - 1].endswith("\n"):
                found: dict[str, Any] = json.loads(lines[self.answers - 1])
                return found
            assert time.monotonic() < deadline, self.job.output()
            time.sleep(0.005)


def ask(racers: list[Racer], text: str) -> list[dict[str, Any]]:
    for racer in racers:
        racer.order(text)
    return [racer.answer() for racer in racers]


def wait_free(racers: list[Racer]) -> None:
    deadline = time.monotonic() + 10
    while any(found["locks"] for found in ask(racers, "look")):
        assert time.monotonic() < deadline, "the winner's locks stay"


@pytest.mark.timeout(1800)
def test_each_race_has_one_winner_and_the_loser_holds_nothing() -> None:
    with Lab() as lab:
        _, a, b = two_nodes(lab, "hook: {wait: 0s}\n")
        guest = Guest("prize", tuple(f"{SHARE}/prize-{number}.raw" for number in range(DISKS)))
        a.make_disks(guest)
        racers = [Racer(a, guest), Racer(b, guest)]
        wins: Counter[str] = Counter()
        for number in range(ROUNDS):
            claims = ask(racers, f"claim {time.time() + 0.1}")
            looks = ask(racers, "look")
            seen = f"round {number}: {claims} {looks}"
            assert sorted(claim["rc"] for claim in claims) == [0, 1], seen
            winner = 0 if claims[0]["rc"] == 0 else 1
            assert looks[winner]["locks"] == PIECES * DISKS, seen
            assert looks[1 - winner]["locks"] == 0, f"a partial claim: {seen}"
            wins[racers[winner].name] += 1
            ask(racers, "release")
            wait_free(racers)
        print(f"{ROUNDS} races of two hosts for {DISKS} disks: {dict(wins)}")
        assert a.status() == b.status() == []
