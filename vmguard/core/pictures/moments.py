"""Moments and lengths for people: this host's own zone, which each page names."""

from __future__ import annotations

import datetime

_UNKNOWN = "?"


def _here(second: float) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(second, datetime.UTC).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def time_of_day(second: float, digits: int = 0) -> str:
    """Return seconds since 1970 as ``17:43:34``, or with tenths of a second."""
    at = _here(second + (0.05 if digits else 0.0))
    if at is None:
        return _UNKNOWN
    return f"{at:%H:%M:%S}" + (f".{at.microsecond // 100_000}" if digits else "")


def day_and_time(second: float) -> str:
    """Return seconds since 1970 as ``2026-11-20 17:43:34 CET``."""
    at = _here(second)
    return f"{at:%Y-%m-%d %H:%M:%S %Z}" if at is not None else _UNKNOWN


def zone(second: float) -> str:
    """Return the zone of a moment as ``CET (UTC+01:00)``."""
    at = _here(second)
    if at is None:
        return _UNKNOWN
    ahead = f"{at:%z}"
    return f"{at:%Z} (UTC{ahead[:3]}:{ahead[3:5]})"


def length(seconds: float) -> str:
    """Return a length as ``12.3 s``, ``9 min 52 s``, ``3 h 05 min``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def after(seconds: float) -> str:
    """Return a time from a beginning as ``+12 s``, ``+2:05`` or ``+1:02:05``; tenths where there are any."""
    sign = "-" if seconds < 0 else "+"
    tenths = round(abs(seconds) * 10)
    whole, tenth = divmod(tenths, 10)
    if whole < 120:
        return f"{sign}{whole}.{tenth} s" if tenth else f"{sign}{whole} s"
    hours, rest = divmod(whole, 3600)
    text = f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
    return f"{sign}{text}"
