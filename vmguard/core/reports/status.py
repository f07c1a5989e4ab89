"""OK, WARNING, CRITICAL, UNKNOWN: the severities of all answers, and the exit status of the commands. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Status(enum.IntEnum):
    """The exit code of `check`, following the convention of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def weight(self) -> int:
        """Return the rank when the worst of several is taken."""
        return (0, 1, 3, 2)[self]


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst of several statuses; UNKNOWN for none."""
    return max(statuses, key=lambda status: status.weight, default=Status.UNKNOWN)
