"""A daemon's loop on a clock of the test's own: it never sleeps, and time passes when the test says so.

::

    loop = SimulatedLoop()
    loop.call_in(5.0, ring)
    loop.pass_by(5.0)
"""

from __future__ import annotations

from vmguard.daemon.runtime.loop import Loop


class SimulatedLoop(Loop):
    """``time`` is the clock, in seconds; a test may also set it."""

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time
        super().__init__(lambda: self.time)

    def pass_by(self, seconds: float, step: float = 0.001) -> None:
        """Let time pass in small steps, and do what is due after each."""
        end = self.time + seconds
        self.turn()
        while self.time < end:
            self.time += step
            self.turn()

    def _sleep(self) -> float:
        return 0.0
