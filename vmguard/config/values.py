"""The kinds of values that a setting can have: how each is read, shown and described.

A kind reads the text as it stands in the file, not what YAML 1.1 makes of it: there ``off`` is a boolean, ``1:30`` is
90 and ``010`` is 8.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from enum import StrEnum
from typing import Generic, TypeVar

from vmguard.config.problems import did_you_mean, quoted

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

# At most nine digits and three decimals: every duration is a whole number of milliseconds.
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,3})?)"
_SECONDS = re.compile(_NUMBER)
_UNITS = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:([0-9]{{1,9}})ms)?")
_FACTORS = (3600.0, 60.0, 1.0, 0.001)

#: texts that YAML and every admin read the same way without quotes
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+-]*")


def parse_duration(text: str) -> float:
    """Return seconds from ``3``, ``0.5``, ``3s``, ``500ms``, ``2m``, ``1h30m``. Raises ValueError."""
    if match := _SECONDS.fullmatch(text):
        return float(match[1])
    match = _UNITS.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{quoted(text)} is not a duration such as 3s, 500ms, 2m or 1h30m")
    return round(sum(float(part) * factor for part, factor in zip(match.groups(), _FACTORS, strict=True) if part), 3)


def format_duration(seconds: float) -> str:
    """Return the shortest text that parse_duration reads as that many seconds (to the millisecond)."""
    left = round(seconds * 1000)
    if 0 < left < 1000:
        return f"{left}ms"
    hours, left = divmod(left, 3_600_000)
    minutes, left = divmod(left, 60_000)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return text + (f"{left / 1000:g}s" if left or not text else "")


class Kind(Generic[T]):
    """One kind of value. ``parse`` raises ValueError, which says what is wrong."""

    def parse(self, text: str) -> T:
        raise NotImplementedError

    def show(self, value: T) -> str:
        """Return the value as it is written in the file."""
        text = str(value)
        return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)

    def describe(self) -> str:
        raise NotImplementedError


class Duration(Kind[float]):
    """A time span in seconds, within bounds."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def parse(self, text: str) -> float:
        seconds = parse_duration(text)
        if not self._low <= seconds <= self._high:
            raise ValueError(f"{quoted(text)} is out of range: {self._range()}")
        return seconds

    def show(self, value: float) -> str:
        return format_duration(value)

    def describe(self) -> str:
        return f"duration, {self._range()}"

    def _range(self) -> str:
        return f"{format_duration(self._low)} to {format_duration(self._high)}"


class Choice(Kind[E]):
    """One word of an enum, or of a part of it."""

    def __init__(self, *members: E) -> None:
        self._members = {member.value: member for member in members}

    def parse(self, text: str) -> E:
        member = self._members.get(text.lower())
        if member is None:
            raise ValueError(f"{quoted(text)} is not {self.describe()}{did_you_mean(text, self._members)}")
        return member

    def describe(self) -> str:
        *first, last = self._members
        return f"{', '.join(first)} or {last}" if first else last


class YesNo(Kind[bool]):
    """A switch."""

    def parse(self, text: str) -> bool:
        if text.lower() in ("yes", "on", "true"):
            return True
        if text.lower() in ("no", "off", "false"):
            return False
        raise ValueError(f"{quoted(text)} is not yes or no")

    def show(self, value: bool) -> str:
        return "yes" if value else "no"

    def describe(self) -> str:
        return "yes or no"


class AbsolutePath(Kind[str]):
    """An absolute path; whether it exists is not checked."""

    def __init__(self, longest: int = 4000, what: str = "absolute path of a directory") -> None:
        self._longest, self._what = longest, what

    def parse(self, text: str) -> str:
        if not text.startswith("/") or ".." in text.split("/"):
            raise ValueError(f"{quoted(text)} is not an absolute path")
        if not text.isprintable():
            raise ValueError(f"{quoted(text)} holds a character that cannot be printed")
        if len(os.fsencode(text)) > self._longest:
            raise ValueError(f"{quoted(text)} is longer than {self._longest} bytes")
        return "/" + os.path.normpath(text).lstrip("/")

    def describe(self) -> str:
        return self._what


class Folders(Kind[tuple[str, ...]]):
    """Absolute paths, separated by colons as in PATH."""

    _path = AbsolutePath()

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(self._path.parse(part) for part in text.split(":")) if text else ()

    def show(self, value: tuple[str, ...]) -> str:
        return json.dumps(":".join(value), ensure_ascii=False)

    def describe(self) -> str:
        return 'absolute paths of directories with colons between them, or ""'


class Name(Kind[str]):
    """A short name of harmless characters."""

    def __init__(self, what: str, pattern: str, may_be_empty: bool = False) -> None:
        self._what, self._pattern = what, re.compile(pattern)
        self._may_be_empty = may_be_empty

    def parse(self, text: str) -> str:
        if text == "" and self._may_be_empty:
            return text
        if not self._pattern.fullmatch(text):
            raise ValueError(f"{quoted(text)} is not {self._what}")
        return text

    def describe(self) -> str:
        return self._what + (' or ""' if self._may_be_empty else "")


class Line(Kind[str]):
    """One line of any text."""

    def __init__(self, what: str, longest: int = 4000) -> None:
        self._what, self._longest = what, longest

    def parse(self, text: str) -> str:
        if len(text) > self._longest or not (text.isprintable() or not text):
            raise ValueError(f"{quoted(text)} is not {self.describe()} of one line")
        return text

    def describe(self) -> str:
        return f'{self._what} or ""'


class Words(Kind[tuple[str, ...]]):
    """The words of a command, split as a shell splits them."""

    def parse(self, text: str) -> tuple[str, ...]:
        if len(text) > 4000 or not (text.isprintable() or not text):
            raise ValueError(f"{quoted(text)} is not {self.describe()} of one line")
        try:
            return tuple(shlex.split(text))
        except ValueError as problem:
            raise ValueError(f"{quoted(text)} cannot be split into words: {str(problem).lower()}") from None

    def show(self, value: tuple[str, ...]) -> str:
        return json.dumps(shlex.join(value), ensure_ascii=False)

    def describe(self) -> str:
        return 'a command or ""'
