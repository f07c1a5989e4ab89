"""Reads the fields of a JSON object with their types, and refuses what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from vmguard.errors import WireError

T = TypeVar("T")

Json = Mapping[str, object]


class Fields:
    """The fields of one JSON object, read with their types.

    A reader without a default demands its field. Every reader raises WireError on a wrong type.
    """

    def __init__(self, value: object, what: str) -> None:
        """``what`` names the object in the error. Raises WireError when ``value`` is not a JSON object."""
        if not isinstance(value, dict):
            raise not_understood(f"{what} is {value!r:.80}, not an object")
        self.json: Json = value
        self._what = what

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        return value if isinstance(value, str) else self._refuse(key, "a text")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        return value if isinstance(value, int) and not isinstance(value, bool) else self._refuse(key, "an integer")

    def number(self, key: str) -> float:
        value = self._get(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(key, "a number")
        return value

    def number_or_none(self, key: str) -> float | None:
        return None if self.json.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """Return a boolean; False when it is missing or null."""
        value = self._get(key, False)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def objects(self, key: str, parse: Callable[[object], T]) -> tuple[T, ...]:
        """Return the elements of a list, parsed; none when it is missing or null."""
        value = self._get(key, [])
        return tuple(map(parse, value)) if isinstance(value, list) else self._refuse(key, "a list")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts of a list; none when it is missing or null."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            self._refuse(key, "a list of texts")
        return tuple(value)

    def object_or_none(self, key: str, parse: Callable[[object], T]) -> T | None:
        value = self.json.get(key)
        return None if value is None else parse(value)

    def _get(self, key: str, default: object) -> object:
        value = self.json.get(key)
        return default if value is None else value

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        if key not in self.json:
            raise not_understood(f"{self._what} has no {key!r}")
        raise not_understood(f"{key!r} of {self._what} is {self.json[key]!r:.80}, not {wanted}")


def not_understood(why: str) -> WireError:
    """Return the error for an answer of the daemon that does not fit."""
    return WireError(f"what the daemon says is not understood: {why}", "systemctl restart vmguard")
