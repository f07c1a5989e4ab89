"""A chapter as tables: how long what lasted, and what was decided on which evidence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from vmguard.core.pictures.bars import WORDS, Bar, Kind, Lane, Place
from vmguard.core.pictures.chapters import Chapter, Line
from vmguard.core.pictures.markup import escaped, tag
from vmguard.core.pictures.moments import length, time_of_day

#: lines that decide about a VM
_DECISIONS = frozenset({"vm.freeze", "vm.thaw", "vm.fence", "vm.ignored", "vm.adopted", "lock.lost", "start.refused"})
_LEVELS = frozenset({"error", "warning", "info"})
#: bars of several VMs that begin and end within this are one row
_SAME_S = 0.25
#: names in a row of the intervals
_NAMES = 200


def lines_table(chapter: Chapter) -> str:
    """Return every line of a chapter with its evidence; the same line again and again is one row."""
    with_host = len({line.host for line in chapter.lines}) > 1
    heads = ["time", "after", *(["host"] if with_host else []), "what was reported", "evidence"]
    rows = []
    for _, group in itertools.groupby(chapter.lines, key=lambda line: (line.host, line.entry.code, line.entry.text)):
        same = list(group)
        rows.append(_line_row(same, chapter.origin, with_host))
    return _table("What was decided, on which evidence", heads, rows)


def _line_row(same: Sequence[Line], origin: float, with_host: bool) -> str:
    line, entry = same[0], same[0].entry
    times = f" ({len(same)} times)" if len(same) > 1 else ""
    cells = [
        tag("td", {"class": "time"}, escaped(time_of_day(line.second, 1))),
        tag("td", {"class": "time"}, f"{line.second - origin:+.2f} s"),
        *([_words(line.host, "host")] if with_host else []),
        _words(f"{entry.text or entry.code}{times}"),
        _words(_evidence(line)),
    ]
    level = entry.level if entry.level in _LEVELS else "info"
    decision = " decision" if entry.code in _DECISIONS else ""
    return tag("tr", {"class": f"{level}{decision}", "data_code": entry.code}, "".join(cells))


def _evidence(line: Line) -> str:
    """Return on what a line rests, by its fields."""
    entry = line.entry
    said = []
    if entry.field("verdict"):
        said.append(f"lock on {entry.field('disk') or '?'}: {entry.field('verdict').upper()}")
    if entry.field("evidence"):
        said.append(entry.field("evidence"))
    if entry.field("age") and entry.code.startswith(("mount.", "lock.")):
        said.append(f"last answered request sent {entry.field('age')} s before")
    if entry.field("not_done"):
        said.append(f"nothing is done: {entry.field('not_done')}")
    return "; ".join(said)


def bars_table(chapter: Chapter) -> str:
    """Return how long what lasted; VMs that were treated alike share a row."""
    rows = sorted(_groups(chapter), key=lambda row: (row[0].begin, row[0].end))
    with_host = len({line.host for line in chapter.lines}) > 1
    heads = ["what", "from", "to", "length", *(["host"] if with_host else []), "where"]
    return _table("How long what lasted", heads, [_bar_row(bar, lanes, with_host) for bar, lanes in rows])


def _groups(chapter: Chapter) -> list[tuple[Bar, list[Lane]]]:
    found: dict[object, list[tuple[Bar, list[Lane]]]] = {}
    for lane in chapter.lanes:
        for bar in lane.bars:
            key = (lane.host, lane.place, bar.kind, bar.begin_known, bar.end_known)
            alike = found.setdefault(key, [])
            for first, lanes in alike:
                near = abs(first.begin - bar.begin) <= _SAME_S and abs(first.end - bar.end) <= _SAME_S
                if near and lane.place is Place.VM and lane not in lanes:
                    lanes.append(lane)
                    break
            else:
                alike.append((bar, [lane]))
    return [row for rows in found.values() for row in rows]


def _bar_row(bar: Bar, lanes: Sequence[Lane], with_host: bool) -> str:
    unknown = bar.kind is Kind.UNKNOWN
    begin = "" if bar.begin_known or unknown else "at the latest "
    end = "" if bar.end_known or unknown else "at least "
    names = ", ".join(lane.name or "?" for lane in lanes[:_NAMES])
    count = f"{len(lanes)} VMs: " if len(lanes) > 1 else ""
    cells = [
        _words(WORDS[bar.kind], "what"),
        tag("td", {"class": "time"}, escaped(begin + time_of_day(bar.begin, 1))),
        tag("td", {"class": "time"}, escaped(end + time_of_day(bar.end, 1))),
        tag("td", {"class": "time"}, escaped(length(bar.end - bar.begin))),
        *([_words(lanes[0].host, "host")] if with_host else []),
        tag("td", {}, f"{count}<bdi>{escaped(names)}</bdi>"),
    ]
    return tag("tr", {"class": "info", "data_kind": str(bar.kind)}, "".join(cells))


def _words(text: str, kind: str = "") -> str:
    return tag("td", {"class": kind} if kind else {}, f"<bdi>{escaped(text)}</bdi>")


def _table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    head = tag("tr", {}, "".join(tag("th", {"scope": "col"}, escaped(word)) for word in heads))
    inside = tag("caption", {}, escaped(caption)) + tag("thead", {}, head) + tag("tbody", {}, "\n".join(rows))
    return tag("table", {}, inside)
