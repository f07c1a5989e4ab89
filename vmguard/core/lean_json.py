"""JSON without the import of ``json``, which costs a hook 7 ms (it pulls in ``re`` and ``enum``).

The C half of the standard library's codec does all the work; where an interpreter does not offer it in the known
form, the ordinary module is used instead. ``tests/unit/test_wire.py`` holds both against each other.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _accelerated() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import _json

    class Context:
        """What the C scanner reads its settings from."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float

    encoder = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
    scanner = _json.make_scanner(Context)  # type: ignore[arg-type]

    def encode(value: Any) -> str:
        return "".join(encoder(value, 0))

    def decode(text: str) -> Any:
        try:
            value, end = scanner(text, 0)
        except StopIteration:
            raise ValueError("no JSON value") from None
        if end != len(text):
            raise ValueError("something follows the JSON value")
        return value

    return encode, decode


def _ordinary() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import json

    def encode(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)

    return encode, json.loads


def _choose() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    try:
        pair = _accelerated()
        if pair[1](pair[0]({"a": [1, None, "b"]})) == {"a": [1, None, "b"]}:
            return pair
    except (ImportError, AttributeError, TypeError):
        pass
    return _ordinary()


#: ``encode(value) -> str`` and ``decode(text) -> value``; decode raises ValueError
encode, decode = _choose()
