"""Types of option values for argparse, which reports what is wrong with a value; and the error for wrong usage."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from vmguard.config.values import parse_duration
from vmguard.errors import BadInput


class UsageError(BadInput):
    """The arguments of a command are invalid."""

    exit_code = 2


_DAYS = re.compile(r"([0-9]{1,4})d")


def span(text: str) -> float:
    """Read 30d, or a duration, as seconds, for argparse."""
    days = _DAYS.fullmatch(text)
    return 86400.0 * int(days[1]) if days is not None and int(days[1]) else duration()(text)


def duration(least: float = 0.0) -> Callable[[str], float]:
    """Return an argparse type that reads 30s or 5m as seconds: at least ``least``, or else more than 0."""

    def read(text: str) -> float:
        try:
            seconds = parse_duration(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None
        if seconds < least or seconds <= 0:
            raise argparse.ArgumentTypeError(f"must be {least:g}s or more" if least else "must be more than 0")
        return seconds

    return read
