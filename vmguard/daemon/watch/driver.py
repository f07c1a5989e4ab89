"""Drive the pure watchdog (vmguard/core/watchdog/machine.py) from the daemon's loop.

Events go in one after the other, and the effects of each are carried out in their order before the next is taken in.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable

from vmguard.core.watchdog.events import Effect, Event, Tick
from vmguard.core.watchdog.machine import Watch
from vmguard.daemon.runtime.loop import Loop, Timer

log = logging.getLogger("vmguard.watch")

#: longest time between two ticks: the boot clock is read that often, whatever is due
_LONGEST_PAUSE_S = 1.0
#: shortest time between two ticks, however much is due
_SHORTEST_PAUSE_S = 0.01


class Driver:
    """The watchdog's event queue and its clock."""

    def __init__(self, loop: Loop, watch: Watch, carry_out: Callable[[Effect], None]) -> None:
        self._loop = loop
        self._watch = watch
        self._carry_out = carry_out
        self._events: deque[Event] = deque()
        self._busy = False
        self._timer = Timer(lambda: None)
        self._due = math.inf

    def start(self) -> None:
        """Begin to tick."""
        self._due = math.inf
        self.feed(Tick(self._loop.now()))

    def feed(self, event: Event) -> None:
        """Take in an event and carry out all that follows from it, in order."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                for effect in self._watch.step(self._events.popleft()):
                    self._carry_out_guarded(effect)
        finally:
            self._busy = False
            self._plan()

    def _carry_out_guarded(self, effect: Effect) -> None:
        """Carry an effect out; a failure for one VM must not keep those for the others from being carried out."""
        try:
            self._carry_out(effect)
        except Exception:
            log.exception("%s failed; please report it as a bug", type(effect).__name__)

    def _plan(self) -> None:
        """Set the next tick, no later than the watchdog wants it: each event may bring it forward."""
        now = self._loop.now()
        when = min(max(self._watch.wake_at(), now + _SHORTEST_PAUSE_S), now + _LONGEST_PAUSE_S)
        if when < self._due:
            self._timer.cancel()
            self._due = when
            self._timer = self._loop.call_at(when, self.start)
