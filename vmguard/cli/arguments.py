"""Types of option values for argparse, which reports what is wrong with a value; and the error for wrong usage."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable

from vmguard.config.values import parse_duration
from vmguard.errors import BadInput


class UsageError(BadInput):
    """The arguments of a command are invalid."""

    exit_code = 2


class HelpText(argparse.RawDescriptionHelpFormatter):
    """Lays out --help: values to choose from as ``libvirt|proxmox``, and a usage without the option --help itself."""

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        shown = [action for action in actions if not isinstance(action, argparse._HelpAction)]
        super().add_usage(usage, shown, groups, prefix)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.metavar is None and action.choices is not None:
            return lambda size: ("|".join(map(str, action.choices or ())),) * size
        return super()._metavar_formatter(action, default_metavar)


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
