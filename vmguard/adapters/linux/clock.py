"""The two clocks: CLOCK_BOOTTIME for every duration (it goes on during suspend), wall time for people only."""

from __future__ import annotations

import time


def boottime() -> float:
    """Return seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> str:
    """Return the time for people and records: ``2026-11-20T13:01:22Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
