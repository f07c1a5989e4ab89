"""The budget of file descriptors: what is left of them belongs to starts of VMs, and it is said before it runs out.

Each guarded VM takes descriptors for as long as it runs, and its start takes some more. Connections of the command line
and looks at strange processes take their share only of what is not kept for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vmguard.adapters.linux import descriptors
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.service")

#: part of the limit that is kept for starts of VMs
_RESERVE = 1 / 8
#: parts of the limit from which on an alarm is raised, and below which it is over
_ALARM, _CALM = 0.75, 0.65
_LOOK_S = 1.0
#: most connections without a claim, and how many when only the reserve is left
_MOST_CONNECTIONS, _FEW_CONNECTIONS = 4096, 16
_REPORT = "daemon.descriptors"


class Descriptors:
    """The descriptors of this process, counted once a second."""

    def __init__(
        self,
        loop: Loop,
        report: Callable[[Report], None],
        used: Callable[[], int] = descriptors.used,
        limit: Callable[[], int] = descriptors.limit,
    ) -> None:
        self._loop = loop
        self._report = report
        self._count = used
        self.limit = limit()
        self.used = used()
        self._alarm = False

    def start(self) -> None:
        """Count from now on."""
        self._loop.call_in(_LOOK_S, self.start)
        self.used = self._count()
        if not self._alarm and self.used >= _ALARM * self.limit:
            self._tell(Level.WARNING, f"{self.words}; without one no VM can be started: raise LimitNOFILE of its unit")
        elif self._alarm and self.used < _CALM * self.limit:
            self._tell(Level.INFO, f"{self.words}, which is enough again")

    def _tell(self, level: Level, sentence: str) -> None:
        self._alarm = level is Level.WARNING
        self._report(Report(level, _REPORT, sentence, {"used": str(self.used), "limit": str(self.limit)}))

    @property
    def words(self) -> str:
        return f"the vmguard daemon has {self.used} of {self.limit} file descriptors in use"

    @property
    def scarce(self) -> bool:
        """Whether only those are left that are kept for starts of VMs."""
        return self.used > (1 - _RESERVE) * self.limit

    def most_connections(self) -> int:
        """Return how many connections there may be that make no claim. Each takes two descriptors."""
        return _FEW_CONNECTIONS if self.scarce else min(_MOST_CONNECTIONS, self.limit // 8)

    def as_json(self) -> dict[str, Any]:
        return {"used": self.used, "limit": self.limit, "alarm": self._alarm}
