"""Warnings about processes of strangers, so many a minute: the journal drops what is too much, the fences among it."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("vmguard.adopt")

MOST = 20
PERIOD_S = 60.0


class FewWarnings:
    """A way to the log that is narrow. ``now`` returns the loop's time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = -PERIOD_S
        self._count = 0
        self._left_out = 0

    def __call__(self, text: str, *words: object) -> None:
        """Log a warning, or count it as left out."""
        if self._now() >= self._began + PERIOD_S:
            if self._left_out:
                log.warning("%d more warnings like these were left out: vmguard doctor", self._left_out)
            self._began, self._count, self._left_out = self._now(), 0, 0
        self._count += 1
        if self._count <= MOST:
            log.warning(text, *words)
        else:
            self._left_out += 1
