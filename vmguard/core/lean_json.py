"""JSON without the import of ``json``, which costs a hook 7 ms (it pulls in ``re`` and ``enum``).

The C half of the standard library's codec does all the work. An interpreter that does not offer it in the known form
gets the ordinary module instead. ``tests/unit/test_wire.py`` compares the two.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class JsonError(ValueError):
    """Malformed text, or nesting too deep for the interpreter's stack. The only error that ``decode`` raises."""


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _accelerated() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import _json

    class Context:
        """The settings that the C scanner reads."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float

    encoder = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
    scanner = _json.make_scanner(Context)  # type: ignore[arg-type]

    def encode(value: Any) -> str:
        try:
            return "".join(encoder(value, 0))
        except RecursionError as problem:
            raise JsonError(str(problem)) from None

    def decode(text: str) -> Any:
        try:
            value, end = scanner(text, 0)
        except StopIteration:
            raise JsonError("no JSON value") from None
        except SystemError:
            # To raise JSONDecodeError, Python 3.11 looks for json.decoder among the imported modules only. When it was
            # never imported, the scanner returns NULL and sets no exception (Modules/_json.c, raise_errmsg).
            raise JsonError("not a JSON value") from None
        except (ValueError, RecursionError) as problem:
            raise JsonError(str(problem)) from None
        if end != len(text):
            raise JsonError("something follows the JSON value")
        return value

    return encode, decode


def _ordinary() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import json

    def encode(value: Any) -> str:
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False)
        except RecursionError as problem:
            raise JsonError(str(problem)) from None

    def decode(text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise JsonError(str(problem)) from None

    return encode, decode


def _choose() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    try:
        pair = _accelerated()
        if pair[1](pair[0]({"a": [1, None, "b"]})) == {"a": [1, None, "b"]}:
            return pair
    except (ImportError, AttributeError, TypeError, ValueError):
        pass
    return _ordinary()


#: ``encode(value) -> str``: raises TypeError for a type that JSON lacks, ValueError for NaN, the infinities and cycles.
#: ``decode(text) -> value``: raises JsonError (a ValueError). White space around the value is an error, too.
encode, decode = _choose()
