"""Lines of text at a terminal: broken between words, where a terminal would break them at an arbitrary place."""

from __future__ import annotations

import re
import unicodedata

#: a line that explains a word in a column of such words: "      why   : the server ..."
_LABEL = re.compile(r" +[\w ?]{2,10}: (?=\S)| +[+-]?[\d.]+ s [ !]{0,3}")
_SPACES = re.compile(r"( +)")
#: how much farther in the later lines begin
_INDENT_COLUMNS = 2


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def wrapped(text: str, width: int) -> list[str]:
    """Break one line between words into lines of at most ``width`` columns.

    Later lines begin two columns farther in than the first, or behind its label. A word that is wider than a whole line
    (a path) stays in one piece and in its line, so that it can be copied.
    """
    if columns(text) <= width:
        return [text]
    label = _LABEL.match(text)
    first = len(text) - len(text.lstrip(" "))
    later = " " * (min(label.end(), width * 2 // 3) if label is not None else first + _INDENT_COLUMNS)
    lines, line = [], " " * first
    for gap, word in _words(text[first:]):
        is_empty = not line.strip(" ")
        fits = columns(line) + len(gap) + columns(word) <= width
        if is_empty or fits or len(later) + columns(word) > width:
            line += word if is_empty else gap + word
        else:
            lines.append(line)
            line = later + word
    return [*lines, line]


def _words(text: str) -> list[tuple[str, str]]:
    """Return each word with the spaces before it."""
    parts = ["", *_SPACES.split(text.rstrip(" "))]
    return list(zip(parts[::2], parts[1::2], strict=True))
