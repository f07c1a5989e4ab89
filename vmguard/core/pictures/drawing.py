"""Draw lanes as SVG: an axis of seconds, a row for each lane, a legend of what occurs. No script, nothing from outside.

Each bar carries what it stands for as ``data-*``, so that a test can compare where a browser draws it with the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from vmguard.core.pictures.axis import Axis
from vmguard.core.pictures.bars import STRIPS, WORDS, Bar, Draining, Kind, Lane, Place
from vmguard.core.pictures.chapters import Chapter
from vmguard.core.pictures.entry import REMINDERS
from vmguard.core.pictures.legend import legend
from vmguard.core.pictures.markup import escaped, shortened, tag
from vmguard.core.pictures.moments import after, length, time_of_day
from vmguard.core.pictures.signs import sign
from vmguard.core.pictures.style import HATCH

#: the last bar ends at RIGHT: the word of a verdict stands behind it
WIDTH, GUTTER, RIGHT = 1000.0, 190.0, 920.0
#: paper before the first second
_PAD = 22.0
_HEAD = 36.0
_HEIGHTS = {Place.HOST: 24.0, Place.STORAGE: 34.0, Place.VM: 22.0}
#: a letter of a bar's label
_LETTER_PX = 6.0
_NAME_COLUMNS = {Place.HOST: 25, Place.STORAGE: 27, Place.VM: 27}


def axis_of(chapter: Chapter) -> Axis:
    """Return the axis of a chapter; all its drawings have the same."""
    points = {line.second for line in chapter.lines if line.entry.code not in REMINDERS}
    for lane in chapter.lanes:
        points |= {second for bar in lane.bars for second in (bar.begin, bar.end)}
        points |= {lease.begin for lease in lane.leases}
    return Axis(chapter.begin, chapter.end, points, GUTTER + _PAD, RIGHT)


def drawing(chapter: Chapter, lanes: Sequence[Lane], axis: Axis, title: str, style: str = "") -> str:
    """Return one SVG element with these lanes of a chapter; ``style`` goes into it when it must stand alone."""
    rows, y = [], _HEAD
    for lane in lanes:
        rows.append(_row(lane, axis, y, chapter))
        y += _HEIGHTS[lane.place]
    bottom = y + 4
    explained, height = legend({bar.kind for lane in lanes for bar in lane.bars}, lanes, bottom + 6, WIDTH)
    parts = [
        tag("title", {}, escaped(title)),
        f"<style>{style}</style>" if style else "",
        HATCH,
        tag("rect", {"class": "paper", "width": WIDTH, "height": height}),
        _grid(axis, chapter, bottom),
        *rows,
        _cuts(axis, bottom),
        explained,
    ]
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH:g} {height:g}", "role": "img"}
    return tag("svg", {**box, "class": "incident", "aria-label": title}, "".join(parts))


# -- the axis --------------------------------------------------------------------------------------------------------


def _grid(axis: Axis, chapter: Chapter, bottom: float) -> str:
    parts = []
    ticks = axis.ticks(chapter.origin)
    digits = 1 if any(later - earlier < 1 for earlier, later in pairwise(ticks)) else 0
    for second in ticks:
        x = axis.x(second)
        parts.append(tag("line", {"class": "grid", "x1": x, "x2": x, "y1": _HEAD - 4, "y2": bottom}))
        parts.append(_text(x, 13.0, time_of_day(second, digits), "clock", anchor="middle"))
        parts.append(_text(x, 26.0, after(second - chapter.origin), "tick", anchor="middle"))
    return "".join(parts)


def _cuts(axis: Axis, bottom: float) -> str:
    """Return bands over what the axis leaves out, each with its length."""
    parts = []
    for piece in axis.pieces:
        if not piece.cut:
            continue
        width, middle = piece.right - piece.left, (piece.left + piece.right) / 2
        band = {"x": piece.left, "y": _HEAD - 2, "width": width, "height": bottom - _HEAD + 2}
        about = f"{length(piece.end - piece.begin)} in which nothing happens are left out here"
        edges = "".join(_zigzag(x, _HEAD - 2, bottom) for x in (piece.left, piece.right))
        parts.append(tag("g", {}, tag("title", {}, escaped(about)) + tag("rect", {"class": "cut", **band}) + edges))
        parts.append(_text(middle, 26.0, length(piece.end - piece.begin), "cut-words", anchor="middle"))
    return "".join(parts)


def _zigzag(x: float, top: float, bottom: float) -> str:
    points, y, side = [], top, 1
    while y < bottom:
        points.append(f"{x + 2 * side:.1f},{y:.1f}")
        y, side = y + 6, -side
    return tag("polyline", {"class": "cut-edge", "points": " ".join(points)})


# -- a row -----------------------------------------------------------------------------------------------------------


def _row(lane: Lane, axis: Axis, y: float, chapter: Chapter) -> str:
    height = _HEIGHTS[lane.place]
    band = {"class": f"row {lane.place}", "x": 0.0, "y": y, "width": WIDTH, "height": height}
    parts = [tag("rect", band), _name(lane, y + (15.0 if lane.place is Place.STORAGE else height / 2 + 4))]
    parts += [_lease(lease, axis, y) for lease in lane.leases]
    parts += [_bar(lane, bar, axis, y, chapter) for bar in lane.bars]
    parts += [
        sign(lane, mark, axis, WIDTH, y + (10.0 if lane.place is Place.STORAGE else height / 2)) for mark in lane.marks
    ]
    words = {"data_host": lane.host, "data_place": str(lane.place), "data_key": lane.key}
    return tag("g", {"class": "lane", **words}, "".join(parts))


def _name(lane: Lane, y: float) -> str:
    words = lane.name or "?"
    shown = shortened(words, _NAME_COLUMNS[lane.place])
    inside = tag("title", {}, escaped(f"{lane.place} {words}")) + escaped(shown)
    x = 8.0 if lane.place is Place.HOST else 18.0
    return tag("text", {"class": f"name {lane.place}", "x": x, "y": y}, inside)


def _bar(lane: Lane, bar: Bar, axis: Axis, y: float, chapter: Chapter) -> str:
    left, right = axis.x(bar.begin), axis.x(bar.end)
    width = max(right - left, 1.5)
    top, height = _box(lane, bar, y)
    box = {"x": left, "y": top, "width": width, "height": height}
    facts = {"data_kind": str(bar.kind), "data_begin": f"{bar.begin:.3f}", "data_end": f"{bar.end:.3f}"}
    parts = [tag("title", {}, bar_words(lane, bar)), tag("rect", {"class": f"bar {bar.kind}", **box, "rx": 2.0})]
    parts += [_edge(left, top, height)] if not bar.begin_known else []
    parts += [_edge(left + width, top, height)] if not bar.end_known else []
    for second, _ in bar.steps:
        x = axis.x(second)
        parts.append(tag("line", {"class": "step", "x1": x, "x2": x, "y1": top, "y2": top + height}))
    label = "" if bar.kind in STRIPS else _label(bar, _free(left, width, axis), chapter)
    if label:
        begin = max(left, axis.x(chapter.begin))
        parts.append(_text(begin + 5, top + height / 2 + 3.7, label, f"label {bar.kind}"))
    return tag("g", facts, "".join(parts))


def _box(lane: Lane, bar: Bar, y: float) -> tuple[float, float]:
    """Return the top and the height of a bar in a row that begins at ``y``."""
    if bar.kind in STRIPS:
        return y + _HEIGHTS[lane.place] - 4.5, 3.5
    if lane.place is Place.STORAGE:
        return y + 3, 15.0
    return y + 3, _HEIGHTS[lane.place] - 8


def _free(left: float, width: float, axis: Axis) -> float:
    """Return the room for a label from ``left`` on: a cut would hide it."""
    cut = next((piece.left for piece in axis.pieces if piece.cut and piece.left >= left), left + width)
    return min(width, cut - left)


def _label(bar: Bar, room: float, chapter: Chapter) -> str:
    """Return the longest label that fits into a bar."""
    word = WORDS[bar.kind]
    seconds = length(bar.end - bar.begin)
    outside = bar.begin < chapter.begin or bar.end > chapter.end
    told = f"{word} {seconds}" if bar.end_known and bar.begin_known else f"{word} {'' if outside else seconds + ' '}…"
    choices = [told, word] if bar.kind is not Kind.UNKNOWN else [word, "?"]
    return next((text for text in choices if len(text) * _LETTER_PX + 8 <= room), "")


def bar_words(lane: Lane, bar: Bar) -> str:
    """Return what a bar says, as markup: what, from when to when, and the lines that say so."""
    begin = time_of_day(bar.begin, 1) if bar.begin_known else f"at the latest {time_of_day(bar.begin, 1)}"
    end = time_of_day(bar.end, 1) if bar.end_known else f"at least {time_of_day(bar.end, 1)}"
    if bar.kind is Kind.UNKNOWN:
        begin, end = time_of_day(bar.begin, 1), time_of_day(bar.end, 1)
    lines = [f"{lane.name}: {WORDS[bar.kind]} from {begin} to {end}, {length(bar.end - bar.begin)}", bar.text]
    lines += [f"{time_of_day(second, 1)} {name}" for second, name in bar.steps]
    lines += [f"ended by: {bar.ended_by}"] if bar.ended_by and bar.ended_by != bar.text else []
    return "&#10;".join(escaped(line) for line in lines)


def _edge(x: float, top: float, height: float) -> str:
    return tag("line", {"class": "open", "x1": x, "x2": x, "y1": top - 2, "y2": top + height + 2})


def _lease(lease: Draining, axis: Axis, y: float) -> str:
    """Return a wedge: the part of the lease that is left, straight within each piece of the axis."""
    top, full = y + 20, 10.0
    inner = {piece.begin for piece in axis.pieces if lease.begin < piece.begin < lease.end}
    seconds = sorted({lease.begin, lease.end, *inner})
    upper = [(axis.x(second), top + full * (second - lease.begin) / lease.lease) for second in seconds]
    floor = top + full
    points = [*upper, (upper[-1][0], floor), (upper[0][0], floor)]
    about = f"the lease of {lease.lease:g} s drains from {time_of_day(lease.begin, 1)} on, when the last request that"
    about += f" got an answer was sent; at {time_of_day(lease.end, 1)} {lease.left:.0%} of it are left"
    facts = {"data_kind": "lease", "data_begin": f"{lease.begin:.3f}", "data_end": f"{lease.end:.3f}"}
    shape = tag("polygon", {"class": "lease", "points": " ".join(f"{x:.2f},{at:.2f}" for x, at in points)})
    begin, end = upper[0][0], upper[-1][0]
    words = f"lease {lease.lease:g} s"
    label = _text(begin + 3, floor - 1.5, words, "lease-words") if end - begin > len(words) * 5 + 30 else ""
    return tag("g", facts, tag("title", {}, escaped(about)) + shape + label)


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return tag("text", {"class": kind, "x": x, "y": y, "text_anchor": anchor}, escaped(words))


# -- panels ----------------------------------------------------------------------------------------------------------


def panels(lanes: Sequence[Lane], first: int, most: int) -> Iterable[Sequence[Lane]]:
    """Cut lanes into parts, each of which fits on a sheet; a host begins a part where it can.

    The first one has ``first`` lanes at most, the others ``most``.
    """
    starts = [0]
    for number, lane in enumerate(lanes):
        size, room = number - starts[-1], first if len(starts) == 1 else most
        rest = sum(1 for other in lanes[number:] if other.host == lane.host)
        if size >= room or (lane.place is Place.HOST and size and size + rest > room):
            starts.append(number)
    for begin, end in pairwise([*starts, len(lanes)]):
        yield lanes[begin:end]
