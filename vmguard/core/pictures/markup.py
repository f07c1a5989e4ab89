"""Strangers' words in XML: harmless, and never markup."""

from __future__ import annotations

from collections.abc import Mapping

from vmguard.core.words import printable

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def escaped(text: str) -> str:
    """Return a text as the content of an element, or between the quotes of an attribute."""
    return printable(text).translate(_ENTITIES)


def tag(name: str, attributes: Mapping[str, object], content: str | None = None) -> str:
    """Return an element; ``content`` is markup. A ``_`` in the name of an attribute is a ``-``."""
    words = "".join(f' {key.replace("_", "-")}="{escaped(_word(value))}"' for key, value in attributes.items())
    return f"<{name}{words}/>" if content is None else f"<{name}{words}>{content}</{name}>"


def _word(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def shortened(text: str, columns: int) -> str:
    """Return a printable text of so many columns at most; an ellipsis takes the place of what is too much."""
    shown = printable(text)
    taken = 0
    for place, char in enumerate(shown):
        taken += 1 if ord(char) < 0x1100 else 2
        if taken > columns:
            return f"{shown[: max(place - 1, 0)]}…"
    return shown
