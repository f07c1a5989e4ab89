"""The probe's JSON document (vmguard/adapters/servers/probe.py): read with its types, and bounded. Pure.

Every byte of it is a stranger's. A key that is missing is a fact that is not known; one of another type is an error.
"""

from __future__ import annotations

import json
from typing import TypeVar

from vmguard.errors import ServerError

T = TypeVar("T")

#: of the probe that this version understands
VERSION = 1
#: bytes of a document; the probe itself gives at most half of it
MAX_BYTES = 16 << 20
#: entries of one list
_MAX_ENTRIES = 200_000

_HINT = "the command must print what the probe prints and nothing else: vmguard storage status -v"


class Document:
    """An object of the document. Every getter raises ServerError when the value has another type."""

    def __init__(self, value: dict[str, object], where: str = "") -> None:
        self._value = value
        self._where = where

    def text(self, key: str) -> str:
        return self._get(key, str, "")

    def flag(self, key: str) -> bool | None:
        found = self._value.get(key)
        if found is not None and not isinstance(found, bool):
            raise self._wrong(key, "yes or no")
        return found

    def number(self, key: str) -> float | None:
        found = self._value.get(key)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not -1e15 < found < 1e15:
            raise self._wrong(key, "number")
        return float(found)

    def texts(self, key: str) -> list[str]:
        found = self._list(key)
        if not all(isinstance(item, str) for item in found):
            raise self._wrong(key, "list of texts")
        return [item for item in found if isinstance(item, str)]

    def part(self, key: str) -> Document:
        found: dict[str, object] = self._get(key, dict, {})
        return Document(found, f"{self._where}{key}.")

    def parts(self, key: str) -> list[Document]:
        found = self._list(key)
        if not all(isinstance(item, dict) for item in found):
            raise self._wrong(key, "list of objects")
        return [Document(item, f"{self._where}{key}.") for item in found if isinstance(item, dict)]

    def has(self, key: str) -> bool:
        return self._value.get(key) is not None

    def _list(self, key: str) -> list[object]:
        found: list[object] = self._get(key, list, [])
        if len(found) > _MAX_ENTRIES:
            raise ServerError(f"the server's answer has {len(found)} entries in {self._where}{key}", _HINT)
        return found

    def _get(self, key: str, kind: type[T], otherwise: T) -> T:
        found = self._value.get(key)
        if found is None:
            return otherwise
        if not isinstance(found, kind):
            raise self._wrong(key, kind.__name__)
        return found

    def _wrong(self, key: str, kind: str) -> ServerError:
        return ServerError(f"the server's answer is not understood: {self._where}{key} is no {kind}", _HINT)


def read(data: bytes) -> Document:
    """Read the document. Raises ServerError when it is none, is too long, or is of another version."""
    if len(data) > MAX_BYTES:
        raise ServerError(f"the server's answer is longer than {MAX_BYTES >> 20} MiB", _HINT)
    if not data.strip():
        raise ServerError("the server answered nothing", _HINT)
    try:
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        start = data[:60].decode("utf-8", "replace")
        raise ServerError(f"the server's answer is no JSON document; it begins with {start!r}", _HINT) from None
    if not isinstance(value, dict) or value.get("vmguard_probe") != VERSION:
        raise ServerError("the server's answer is not that of this version's probe", "vmguard storage probe prints it")
    found = Document(value)
    if problem := found.text("problem"):
        raise ServerError(f"the probe says: {problem}")
    return found
