"""Share out the time for looks at processes: each round has so much of it, and what costs much waits for its turn.

Whoever starts processes decides how many there are and what a look at one of them costs. So the processes that cost
little are looked at first, those first that have waited longest. What does not fit into a round is left for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

#: CPU time of a round, and what of it is left to processes that cost much
ROUND_S, DEAR_ROUND_S = 0.06, 0.03
#: CPU time of a look from which on a process is one of those
_DEAR_S = 0.002


class Turns:
    """The looks of one round after the other, by pid."""

    def __init__(self, cpu_time: Callable[[], float] = time.thread_time) -> None:
        self._cpu_time = cpu_time
        self._left = ROUND_S
        self._costs: dict[int, float] = {}
        #: the number of the latest look at each
        self._latest: dict[int, int] = {}
        self._looks = 0

    def go_round(self, pids: Iterable[int], look: Callable[[int], None]) -> None:
        """Begin a round, and look at as many of these processes as its time allows."""
        self._left = ROUND_S
        waiting = sorted(pids, key=lambda pid: self._latest.get(pid, 0))
        dear = [pid for pid in waiting if self._costs.get(pid, 0.0) >= _DEAR_S]
        self._costs = {pid: self._costs[pid] for pid in dear}
        self._latest = {pid: self._latest.get(pid, 0) for pid in waiting}
        for pid in waiting:
            if self._left <= (DEAR_ROUND_S if dear else 0.0):
                break
            if pid not in self._costs:
                self.look(pid, look)
        for pid in dear:
            self.look(pid, look)

    def look(self, pid: int, look: Callable[[int], None]) -> bool:
        """Look at a process if there is time left in this round. Return whether there was."""
        if self._left <= 0.0:
            return False
        began = self._cpu_time()
        try:
            look(pid)
        finally:
            cost = self._cpu_time() - began
            self._left -= cost
            self._looks += 1
            self._latest[pid] = self._looks
            self._costs[pid] = cost
        return True
