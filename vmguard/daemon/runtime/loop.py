"""The daemon's event loop: descriptors that become readable, and deadlines on CLOCK_BOOTTIME.

Own code, because a deadline must also count the time that the host was suspended: asyncio's clock stands still then.
``poll`` itself sleeps on the monotonic clock, so the loop never sleeps longer than TICK and looks at the boot clock
each time.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
from collections import deque
from collections.abc import Callable

from vmguard.adapters.linux import clock

log = logging.getLogger("vmguard.loop")

#: seconds; how late a deadline can be noticed after the host was suspended
TICK = 1.0

Callback = Callable[[], None]


class Timer:
    """A deadline that may be cancelled."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """Runs until ``stop`` is called. Only ``call_from_thread`` may be used by other threads."""

    def __init__(self, now: Callable[[], float] = clock.boottime) -> None:
        """``now``: the clock of all deadlines, in seconds."""
        self._now = now
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._from_threads: deque[Callback] = deque()
        self._running = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._wake_read, self._drain_wakes)

    @property
    def wake_fd(self) -> int:
        """For signal.set_wakeup_fd: a byte here makes the loop look around."""
        return self._wake_write

    def now(self) -> float:
        """Return the time on the clock of the deadlines; any thread may ask."""
        return self._now()

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back whenever the descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Call back at a time of CLOCK_BOOTTIME, in seconds."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_in(self, seconds: float, callback: Callback) -> Timer:
        return self.call_at(self._now() + seconds, callback)

    def call_from_thread(self, callback: Callback) -> None:
        self._from_threads.append(callback)
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        self._running = True
        while self._running:
            self.turn()

    def turn(self) -> None:
        """One round: sleep until something is due, then do all that is due."""
        for key, _ in self._selector.select(self._sleep()):
            if key.fd in self._selector.get_map():
                self._guarded(key.data)
        while self._timers and self._timers[0][0] <= self._now():
            self._guarded(heapq.heappop(self._timers)[2].fire)
        while self._from_threads:
            self._guarded(self._from_threads.popleft())

    def close(self) -> None:
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _sleep(self) -> float:
        if self._from_threads:
            return 0.0
        if not self._timers:
            return TICK
        return min(TICK, max(0.0, self._timers[0][0] - self._now()))

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _guarded(self, callback: Callback) -> None:
        """The one place that catches everything: a fault in one VM's handling must not take the guard from the rest."""
        try:
            callback()
        except Exception:
            log.exception("a task of the daemon failed; please report it as a bug")
