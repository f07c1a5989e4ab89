"""Marks: verdicts, ends, beginnings, alarms, each with its line as a hint."""

from __future__ import annotations

from vmguard.core.pictures.axis import Axis
from vmguard.core.pictures.bars import STRIPS, Lane, Mark, Sign
from vmguard.core.pictures.markup import escaped, tag
from vmguard.core.pictures.moments import time_of_day

#: shapes around 0, 0
_SHAPES: dict[Sign, str] = {
    Sign.KEPT: "M-4 0 L-1 4 L5 -4",
    Sign.LOST: "M-4 -4 L4 4 M-4 4 L4 -4",
    Sign.GONE: "M-3 -5 L-3 5 M0 -5 L0 5",
    Sign.BEGAN: "M-3 -5 L5 0 L-3 5 Z",
    Sign.SESSION: "M0 -5 L5 0 L0 5 L-5 0 Z",
    Sign.ALARM: "M0 -5 L5 4 L-5 4 Z",
    Sign.NOTE: "M-2 0 A2 2 0 1 1 2 0 A2 2 0 1 1 -2 0 Z",
}
SIGN_WORDS: dict[Sign, str] = {
    Sign.KEPT: "verdict KEPT, thaw",
    Sign.LOST: "verdict LOST",
    Sign.GONE: "ended",
    Sign.BEGAN: "a daemon began",
    Sign.SESSION: "new session with the storage",
    Sign.ALARM: "alarm",
    Sign.NOTE: "another line",
}
_BESIDE = {Sign.KEPT: "KEPT", Sign.LOST: "LOST", Sign.GONE: "ended"}
#: a letter of the word beside a mark
_LETTER_PX = 6.4


def shape(kind: Sign, x: float, y: float) -> str:
    """Return the shape of a mark at a place."""
    words = {"class": f"sign {kind}", "d": _SHAPES[kind], "transform": f"translate({x:.2f} {y:.2f})"}
    return tag("path", words)


def sign(lane: Lane, mark: Mark, axis: Axis, right: float, y: float) -> str:
    """Return a mark on its lane; a verdict has its word beside it if it has room left of ``right``."""
    x = axis.x(mark.second)
    about = tag("title", {}, escaped(f"{time_of_day(mark.second, 1)} {mark.text}"))
    parts = [about, shape(mark.sign, x, y - 6 if mark.sign is Sign.NOTE else y)]
    word = _word(lane, mark)
    if word and _is_free(lane, mark, axis, (x, min(x + 10 + len(word) * _LETTER_PX, right + 1)), right):
        parts.append(
            tag(
                "text",
                {
                    "class": f"verdict {Sign.LOST if word.startswith(_BESIDE[Sign.LOST]) else mark.sign}",
                    "x": x + 8,
                    "y": y + 3.7,
                },
                word,
            )
        )
    facts = {"data_sign": str(mark.sign), "data_second": f"{mark.second:.3f}"}
    return tag("g", facts, "".join(parts))


def _word(lane: Lane, mark: Mark) -> str:
    """Return the word beside a mark; the end of a VM whose lock was lost says so, too."""
    word = _BESIDE.get(mark.sign, "")
    lost = any(other.sign is Sign.LOST and other.second <= mark.second for other in lane.marks)
    return f"LOST, {word}" if mark.sign is Sign.GONE and lost else word


def _is_free(lane: Lane, mark: Mark, axis: Axis, room: tuple[float, float], right: float) -> bool:
    """Return whether no bar, no other verdict and no edge is where the word would stand."""
    x, end = room
    if end > right:
        return False
    bars = [bar for bar in lane.bars if bar.kind not in STRIPS]
    others = [other.second for other in lane.marks if other.sign in _BESIDE and other is not mark]
    return not any(axis.x(bar.begin) < end and axis.x(bar.end) > x + 1 for bar in bars) and not any(
        x <= axis.x(second) < end for second in others if second >= mark.second
    )
