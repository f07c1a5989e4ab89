"""Warnings about processes of strangers, so many a minute: the journal drops what is too much, the fences among it."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("vmguard.adopt")

MOST = 20
PERIOD_S = 60.0


class FewWarnings:
    """A narrow way to the log. ``now`` returns the loop's time. ``tell`` takes what is an event, by its code."""

    def __init__(self, now: Callable[[], float], tell: Callable[[str, str], object] | None = None) -> None:
        self._now = now
        self._tell = tell
        self._began = -PERIOD_S
        self._count = 0
        self._left_out = 0

    def __call__(self, text: str, *words: object, code: str = "") -> None:
        """Log a warning, or report it, if it has a code; or count it as left out."""
        if self._now() >= self._began + PERIOD_S:
            if self._left_out:
                log.warning("%d more warnings like these were left out: vmguard doctor", self._left_out)
            self._began, self._count, self._left_out = self._now(), 0, 0
        self._count += 1
        if self._count > MOST:
            self._left_out += 1
        elif code and self._tell is not None:
            self._tell(code, text % words)
        else:
            log.warning(text, *words)
