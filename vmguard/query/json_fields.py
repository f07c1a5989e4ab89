"""Parse JSON objects into frozen dataclasses by the types of their fields, and refuse what does not fit."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from vmguard.errors import WireError

Json = Mapping[str, object]
#: key of a field's metadata: its name in JSON, if that is another one
KEY = "key"

_WORDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class JsonObject:
    """A JSON object. A subclass declares its keys as fields; one with a default may be missing or null in JSON.

    A field is a text, a number, a boolean, another JsonObject, or a tuple of these.
    """

    #: the object as it came, with keys that this version does not know
    json: Json = field(default_factory=dict)
    #: how errors call it
    what: ClassVar[str]
    _fields: ClassVar[list[_Field]]

    def __init_subclass__(cls, what: str) -> None:
        cls.what = what

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse a JSON value. Raises WireError if it does not fit."""
        if not isinstance(value, dict):
            raise not_understood(f"{cls.what} is {value!r:.80}, not an object")
        if "_fields" not in vars(cls):
            cls._fields = _fields_of(cls)
        found: dict[str, Any] = {}
        for known in cls._fields:
            item = value.get(known.key)
            if item is not None:
                found[known.name] = known.parse(item, known.what)
            elif not known.has_default:
                raise not_understood(f"{known.what} is {'null' if known.key in value else 'missing'}")
        return cls(json=value, **found)


#: returns a value, which an error calls by the given words, as a field's type wants it
_Parse = Callable[[object, str], object]


class _Field(NamedTuple):
    name: str
    key: str
    what: str
    parse: _Parse
    has_default: bool


def _fields_of(cls: type[JsonObject]) -> list[_Field]:
    hints = typing.get_type_hints(cls)
    found = []
    for item in dataclasses.fields(cls):
        key = item.metadata.get(KEY, item.name)
        has_default = item.default is not dataclasses.MISSING
        if item.name != "json":
            found.append(_Field(item.name, key, f"{key!r} of {cls.what}", _parser(hints[item.name]), has_default))
    return found


def _parser(kind: Any) -> _Parse:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None: the default stands for null
        return _parser(arguments[0])
    if origin is tuple:
        return functools.partial(_parse_list, _parser(arguments[0]))
    if issubclass(kind, JsonObject):
        return lambda value, what: kind.from_json(value)
    return functools.partial(_parse_plain, (int, float) if kind is float else kind, kind is bool, _WORDS[kind])


def _parse_list(parse: _Parse, value: object, what: str) -> object:
    if not isinstance(value, list):
        raise not_understood(f"{what} is {value!r:.80}, not a list")
    return tuple(parse(item, what) for item in value)


def _parse_plain(kind: Any, is_flag: bool, words: str, value: object, what: str) -> object:
    if not isinstance(value, kind) or (isinstance(value, bool) and not is_flag):
        raise not_understood(f"{what} is {value!r:.80}, not {words}")
    return value


def not_understood(why: str) -> WireError:
    """Return the error for an answer of the daemon that does not fit."""
    return WireError(f"what the daemon says is not understood: {why}", "systemctl restart vmguard")
