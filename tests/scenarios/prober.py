"""A rival on another host that tries to lock whole disks in a tight loop, for the length of a ``with`` block.

with Prober(b.host, *guest.paths) as rival:
    ...
assert rival.wins == [] and rival.tries > 100
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Self

from tests.lab.guest import PYTHON, REPOSITORY, Guest


class Prober:
    def __init__(self, host: Guest, *paths: str) -> None:
        self._host = host
        self._command = [PYTHON, f"{REPOSITORY}/tests/scenarios/inside/prober.py", "0", *paths]
        self.tries = 0
        #: the files it got, in their order
        self.wins: list[str] = []

    def __enter__(self) -> Self:
        self._job = self._host.spawn(self._command, stdin=True)
        self._job.wait_for("^tried", 20)
        return self

    def moments(self) -> list[tuple[str, float]]:
        """The files it has got until now, and when, by its host's clock."""
        found = re.findall(r"^got (.*) ([\d.]+)$", self._job.output()[0], re.MULTILINE)
        return [(path, float(moment)) for path, moment in found]

    def so_far(self) -> list[str]:
        """The files it has got until now."""
        return [path for path, _ in self.moments()]

    @property
    def last(self) -> float:
        """When it got one for the last time; 0 when never."""
        return max((moment for _, moment in self.moments()), default=0.0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._job.end_input()
        result = self._job.wait(30)
        self.wins = self.so_far()
        over = re.search(r"^over (\d+) (\d+)$", result.stdout, re.MULTILINE)
        assert over is not None, (result.stdout[-1000:], result.stderr[-2000:])
        self.tries = int(over[1])
        assert int(over[2]) == len(self.wins)
