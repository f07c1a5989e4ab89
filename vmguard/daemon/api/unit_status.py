"""What `systemctl status vmguard` shows: the health line of this host (STATUS= of sd_notify(3)), as it is now.

Renewed shortly after each report, and now and then; sent only when it says something else.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from vmguard.adapters.linux import systemd
from vmguard.core.reports.health import HostState, health
from vmguard.daemon.runtime.loop import Loop

#: between two looks without a report: a VM that started or ended is not reported
_INTERVAL_S = 30.0
#: after a report, so that of a hundred VMs that are frozen at once not each is a message of its own
_SOON_S = 0.3
#: characters of the line: systemd takes it as it is
_MAX_LINE = 400


class UnitStatus:
    """The line, and what it is made from; for the loop's thread."""

    def __init__(
        self, loop: Loop, state: Callable[[], HostState], notify: Callable[[str], object] = systemd.notify
    ) -> None:
        self._loop = loop
        self._state = state
        self._notify = notify
        self._sent = ""
        self._is_due = False

    def start(self) -> None:
        """Send the line, and keep it up to date."""
        self._send()
        self._loop.call_in(_INTERVAL_S, self.start)

    def renew(self, *_: object) -> None:
        """Send the line anew soon, because something has happened."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_in(_SOON_S, self._send)

    def _send(self) -> None:
        self._is_due = False
        line = self.line()
        if line != self._sent:
            self._sent = line
            self._notify(f"STATUS={line}")

    def line(self) -> str:
        """Return the line as of now."""
        found = health(self._state(), datetime.datetime.now(datetime.UTC), kept=True)
        todo = f". Do now: {found.do_now}" if found.do_now else ""
        return f"{found.line}{todo}"[:_MAX_LINE]
