"""Where a second stands on the paper. Long stretches in which nothing happens are cut out, and the cut shows.

A VM that stands still for an hour after an outage of ten seconds would leave one pixel for the ten seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: a stretch is cut when it has so many times the length of all that is shorter, which counts as so long at least
_MUCH, _LEAST_REST_S = 3.0, 15.0
#: what stays of a stretch on both sides of its cut, as a part of all that is not cut
_LEFT = 0.06
#: paper of a cut, and least distance of two ticks
_CUT_PX, _TICK_PX = 62.0, 64.0
#: histories have milliseconds
_SHORTEST_S = 1e-3
#: of a piece
_MOST_TICKS = 40
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)


@dataclass(frozen=True)
class Piece:
    """A part of the axis: seconds, and where they stand."""

    begin: float
    end: float
    left: float
    right: float
    #: cut out: it has paper of a fixed size, whatever its length
    cut: bool = False


class Axis:
    """Maps seconds to a place between ``left`` and ``right``."""

    def __init__(self, begin: float, end: float, points: Iterable[float], left: float, right: float) -> None:
        self.left, self.right = left, right
        end = end if end - begin >= _SHORTEST_S else begin + 1.0
        self.pieces = _placed(_spans(begin, end, points), left, right)

    def x(self, second: float) -> float:
        """Return where a second stands; what lies outside stands at the edge."""
        for piece in self.pieces:
            if second <= piece.end:
                part = (second - piece.begin) / (piece.end - piece.begin) if piece.end > piece.begin else 0.0
                return piece.left + max(0.0, part) * (piece.right - piece.left)
        return self.right

    def ticks(self, origin: float) -> list[float]:
        """Return round seconds, counted from ``origin``, far enough from each other."""
        shown = [piece for piece in self.pieces if not piece.cut]
        seconds = sum(piece.end - piece.begin for piece in shown)
        paper = sum(piece.right - piece.left for piece in shown)
        least = _TICK_PX * seconds / max(paper, 1.0)
        step = next((step for step in _STEPS if step >= least), least)
        found: list[float] = []
        for piece in shown:
            first = math.ceil((piece.begin - origin) / step)
            for number in range(first, first + _MOST_TICKS):
                second = origin + number * step
                if piece.begin <= second <= piece.end and self._has_room(second, found):
                    found.append(second)
        return found

    def _has_room(self, second: float, ticks: Sequence[float]) -> bool:
        """Return whether the words of a tick touch neither those of the one before nor those of a cut."""
        x, room = self.x(second), 0.45 * _TICK_PX
        in_cut = any(piece.left - room < x < piece.right + room for piece in self.pieces if piece.cut)
        return not in_cut and (not ticks or x - self.x(ticks[-1]) >= 0.8 * _TICK_PX)


def _spans(begin: float, end: float, points: Iterable[float]) -> list[tuple[float, float, bool]]:
    """Return the parts of the axis in seconds, and whether each is cut out."""
    at = sorted({begin, end, *(point for point in points if begin < point < end)})
    gaps = [later - earlier for earlier, later in zip(at, at[1:], strict=False)]
    limit = _limit(gaps)
    left = _LEFT * max(1.0, sum(gap for gap in gaps if gap < limit))
    spans: list[tuple[float, float, bool]] = []
    since = begin
    for earlier, later in zip(at, at[1:], strict=False):
        if later - earlier >= limit and later - earlier > 2 * left:
            spans += [(since, earlier + left, False), (earlier + left, later - left, True)]
            since = later - left
    return [*spans, (since, end, False)]


def _limit(gaps: Sequence[float]) -> float:
    """Return the length from which on a stretch is cut: most of them cut as leaves the rest enough paper."""
    limit, rest = math.inf, 0.0
    for gap in sorted(gaps):
        if rest and gap > _MUCH * max(rest, _LEAST_REST_S):
            limit = min(limit, gap)
        rest += gap
    return limit


def _placed(spans: Sequence[tuple[float, float, bool]], left: float, right: float) -> list[Piece]:
    cuts = sum(cut for _, _, cut in spans)
    cut_px = min(_CUT_PX, (right - left) / (2 * cuts)) if cuts else 0.0
    seconds = sum(end - begin for begin, end, cut in spans if not cut) or 1.0
    scale = (right - left - cuts * cut_px) / seconds
    pieces, at = [], left
    for begin, end, cut in spans:
        width = cut_px if cut else (end - begin) * scale
        pieces.append(Piece(begin, end, at, at + width, cut))
        at += width
    return pieces
