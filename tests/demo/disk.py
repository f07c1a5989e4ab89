"""What a disk holds, seen on the storage itself; and whose writes these are.

The VM of the demo (tests/lab/heartbeat.s) counts its writes, and each of them is the number of that write. So the
numbers that the disk had, in their order, tell who wrote when: the two VMs are far apart in their counting.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.lab import Job, NfsServer
from tests.lab.guest import PYTHON
from tests.lab.heartbeat import SECTOR

#: runs on the storage: prints each number that the disk has, with the storage's own time
_WATCH = f"""
import os, struct, sys, time
fd, before = os.open(sys.argv[1], os.O_RDONLY), None
while True:
    [number] = struct.unpack("<I", os.pread(fd, 4, {SECTOR}))
    if number != before:
        print(time.time(), number, flush=True)
        before = number
    time.sleep(0.01)
"""


class Write(NamedTuple):
    """A write that reached the disk: when, by the storage's clock in seconds, and the number that it wrote."""

    at: float
    number: int


@dataclass(frozen=True)
class Proof:
    """What the disk tells of two VMs that had it one after the other, or at the same time."""

    first: Sequence[Write]
    second: Sequence[Write]

    @property
    def gap(self) -> float:
        """Return the seconds from the first VM's last write to the second one's first; negative if they overlap."""
        return self.second[0].at - self.first[-1].at

    @property
    def overlap(self) -> int:
        """Return how many writes of the first VM came behind the first write of the second."""
        return sum(write.at > self.second[0].at for write in self.first)

    @property
    def steps_back(self) -> int:
        """Return how often the number on the disk fell, although each VM counts upwards; once is the takeover."""
        both = sorted([*self.first, *self.second])
        return sum(after.number < before.number for before, after in itertools.pairwise(both))


def proof(writes: Sequence[Write], far: int) -> Proof:
    """Tell the writes of the VM that has counted up to ``far`` from those of one that begins at 1.

    Raises ValueError when one of the two never wrote.
    """
    series: tuple[list[Write], list[Write]] = ([], [])
    last = [far, 0]
    for write in writes:
        who = int(abs(write.number - last[0]) > abs(write.number - last[1]))
        series[who].append(write)
        last[who] = write.number
    if not all(series):
        raise ValueError(f"only one VM wrote: {writes[-1:]}")
    return Proof(*series)


class DiskWatch:
    """Watches a disk on the storage, until the storage loses power."""

    def __init__(self, server: NfsServer, path: str) -> None:
        self._job: Job = server.spawn([PYTHON, "-c", _WATCH, path])

    def writes(self) -> list[Write]:
        """Return what was seen so far; a line that is not whole yet is left out."""
        lines = self._job.output()[0].split("\n")[:-1]
        return [Write(float(at), int(number)) for at, number in map(str.split, lines)]

    def wait_for(self, true: Callable[[list[Write]], bool], seconds: float = 20.0) -> list[Write]:
        """Wait until the writes are as wanted; return them. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not true(writes := self.writes()):
            if time.monotonic() > end:
                raise TimeoutError(f"the disk had {len(writes)} numbers, the last {writes[-5:]}")
            time.sleep(0.1)
        return writes

    def end(self) -> None:
        self._job.kill()
