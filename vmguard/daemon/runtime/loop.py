"""The daemon's event loop: readable descriptors, and deadlines on CLOCK_BOOTTIME.

Not chosen: asyncio. A deadline must also count the time for which the host was suspended, and asyncio's clock stops
then. ``poll`` itself sleeps on the monotonic clock, so the loop never sleeps longer than TICK_S and reads the boot
clock each time.
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

log = logging.getLogger("vmguard.runtime")

#: longest sleep: how late a deadline may be noticed after the host was suspended
TICK_S = 1.0
#: for this long readable descriptors are served before deadlines have their turn, and the other way round
_TURN_S = 0.02

#: its result is ignored
Callback = Callable[[], object]


class Timer:
    """A deadline that can be cancelled."""

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
    """One thread's loop. Other threads may use ``call_from_thread`` and ``now`` only."""

    def __init__(self, now: Callable[[], float] = clock.boottime) -> None:
        """``now``: the clock of all deadlines, in seconds."""
        self._now = now
        self._selector = selectors.DefaultSelector()
        #: readable descriptors whose turn has not come yet
        self._readable: deque[selectors.SelectorKey] = deque()
        self._after_reading: list[Callback] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._from_threads: deque[Callback] = deque()
        self._running = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._wake_read, self._drain_wakes)

    @property
    def wake_fd(self) -> int:
        """The descriptor for signal.set_wakeup_fd: a byte written to it wakes the loop."""
        return self._wake_write

    def now(self) -> float:
        """Return the time on the clock of the deadlines, in seconds."""
        return self._now()

    def watch(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever the descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Call ``callback`` once at ``when``, a time of ``now``, unless the timer is cancelled before."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_in(self, seconds: float, callback: Callback) -> Timer:
        """Call ``callback`` once after ``seconds``, unless the timer is cancelled before."""
        return self.call_at(self._now() + seconds, callback)

    def call_after_reading(self, callback: Callback) -> None:
        """Call ``callback`` once whatever is readable now has been read."""
        self._after_reading.append(callback)

    def call_from_thread(self, callback: Callback) -> None:
        """Have the loop's thread call ``callback`` soon."""
        self._from_threads.append(callback)
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass  # the pipe is full: the loop will wake anyway

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        self._running = True
        while self._running:
            self.turn()

    def turn(self) -> None:
        """Sleep until something is due, then do all that is due. However much is readable, no deadline waits for it."""
        self._read()
        end = self._now() + _TURN_S
        while self._timers and self._timers[0][0] <= self._now():
            self._guarded(heapq.heappop(self._timers)[2].fire)
            if self._now() >= end:
                break
        while self._from_threads:
            self._guarded(self._from_threads.popleft())

    def _read(self) -> None:
        """Serve the descriptors that are readable, each once, before it is asked again which ones are."""
        if not self._readable:
            self._readable.extend(key for key, _ in self._selector.select(self._sleep()))
        watched, end = self._selector.get_map(), self._now() + _TURN_S
        while self._readable:
            key = self._readable.popleft()
            if watched.get(key.fd) is key:  # else another callback has closed it, and its number may be reused
                self._guarded(key.data)
            if self._now() >= end:
                break
        if not self._readable:
            after, self._after_reading = self._after_reading, []
            for callback in after:
                self._guarded(callback)

    def close(self) -> None:
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _sleep(self) -> float:
        if self._from_threads or self._after_reading:
            return 0.0
        if not self._timers:
            return TICK_S
        return min(TICK_S, max(0.0, self._timers[0][0] - self._now()))

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _guarded(self, callback: Callback) -> None:
        """Call back and log any exception: a fault in the handling of one VM must not end the guard of the others."""
        try:
            callback()
        except Exception:
            log.exception("a task of the daemon failed; please report it as a bug")
