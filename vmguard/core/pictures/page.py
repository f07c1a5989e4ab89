"""One self-contained page, or one drawing: what `--html` and `--svg` write. No script, nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence

from vmguard.core.pictures.bars import Bar, Kind, Lane, Place
from vmguard.core.pictures.chapters import Album, Chapter, Source
from vmguard.core.pictures.drawing import axis_of, drawing, panels
from vmguard.core.pictures.lanes import HostPicture
from vmguard.core.pictures.markup import escaped, tag
from vmguard.core.pictures.moments import day_and_time, length, time_of_day, zone
from vmguard.core.pictures.style import DRAWING, PAGE
from vmguard.core.pictures.tables import bars_table, lines_table

#: lanes of one drawing on a page: as many as fit on a sheet of paper, and on one with a heading
_SHEET, _FIRST_SHEET = 26, 14
#: killed VMs that are named above a drawing
_NAMED = 20
#: the browser itself refuses whatever a stranger's word could try
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(album: Album, title: str, made_at: float, about: str = "") -> str:
    """Return a whole HTML document. ``made_at``: seconds since 1970. ``about``: what was left out, for people."""
    parts = [
        tag("h1", {}, f"<bdi>{escaped(title)}</bdi>"),
        _paragraph(f"Made by vmguard at {day_and_time(made_at)}. All times are those of this zone: {zone(made_at)}."),
        _paragraph(about) if about else "",
        _hosts(album),
        *(_chapter(chapter, number) for number, chapter in enumerate(album.chapters, 1)),
        "" if album.chapters else tag("p", {}, "Nothing is in these histories that was asked for."),
    ]
    head = (
        '<meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escaped(title)}</title><style>{PAGE}{DRAWING}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(parts)}</body></html>\n'


def svg(album: Album, title: str) -> str:
    """Return the newest chapter as one SVG document."""
    empty = Chapter(0.0, 1.0, (), (), ())
    chapter = album.chapters[-1] if album.chapters else empty
    words = f"{title}: {headline(chapter)}" if chapter.lines else f"{title}: nothing"
    return f"{drawing(chapter, chapter.lanes, axis_of(chapter), words, DRAWING)}\n"


def headline(chapter: Chapter) -> str:
    """Say when a chapter was, how long, and what kind of outage, if it was one."""
    seconds = chapter.lines[-1].second - chapter.origin if chapter.lines else 0.0
    words = {outage.words for outage in chapter.kinds}
    return "; ".join([f"{day_and_time(chapter.origin)}, {length(seconds)}", *(words if len(words) == 1 else ())])


def _chapter(chapter: Chapter, number: int) -> str:
    title = headline(chapter)
    axis = axis_of(chapter)
    drawings = [drawing(chapter, lanes, axis, title) for lanes in panels(chapter.lanes, _FIRST_SHEET, _SHEET)]
    parts = [tag("h2", {"id": f"incident-{number}"}, f"<bdi>{escaped(title)}</bdi>"), _summary(chapter), *drawings]
    return tag("section", {}, "\n".join([*parts, bars_table(chapter), lines_table(chapter)]))


def _summary(chapter: Chapter) -> str:
    """Return what people ask first: how many VMs were frozen, for how long at most, and which were killed."""
    bars = [(lane, bar) for lane in chapter.lanes if lane.place is Place.VM for bar in lane.bars]
    frozen = [(lane, bar) for lane, bar in bars if bar.kind is Kind.FROZEN]
    fenced = list(dict.fromkeys(lane for lane, bar in bars if bar.kind is Kind.FENCING))
    said = []
    if frozen:
        longest = max((bar for _, bar in frozen), key=lambda bar: bar.end - bar.begin)
        vms = len({(lane.host, lane.key) for lane, _ in frozen})
        said.append(f"{_counted(vms, 'VM')} frozen, the longest for {_length(longest)}")
    if fenced:
        said.append(f"fenced: {_names(fenced, len({line.host for line in chapter.lines}) > 1)}")
    if any(bar.kind is Kind.UNKNOWN for lane in chapter.lanes for bar in lane.bars):
        said.append("hatched: what the history does not say")
    lines = [*_outages(chapter), *(["; ".join(said)] if said else [])]
    return "".join(tag("p", {}, f"<bdi>{escaped(line)}</bdi>") for line in lines)


def _outages(chapter: Chapter) -> list[str]:
    """Return what each host's incident was, where a heading cannot say it for all."""
    if len({outage.words for outage in chapter.kinds}) < 2:
        return []
    return [f"{time_of_day(outage.second, 1)} {outage.host}: {outage.words}" for outage in chapter.kinds]


def _names(lanes: Sequence[Lane], with_host: bool) -> str:
    names = [f"{lane.name} on {lane.host}" if with_host else lane.name for lane in lanes[:_NAMED]]
    return ", ".join(names) + (f" and {len(lanes) - _NAMED} more" if len(lanes) > _NAMED else "")


def _length(bar: Bar) -> str:
    return length(bar.end - bar.begin) + ("" if bar.end_known and bar.begin_known else " or more")


def _counted(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number} {word}s"


# -- what is known about the histories themselves --------------------------------------------------------------------


def _hosts(album: Album) -> str:
    pairs = zip(album.sources, album.hosts, strict=True)
    rows = [_paragraph(note, escape=False) for source, host in pairs for note in [_host(source, host)] if note]
    return "".join(rows)


def _host(source: Source, host: HostPicture) -> str:
    said = host_notes(source, host)
    return f"<bdi><b>{escaped(source.host)}</b>: {escaped('; '.join(said))}</bdi>"


def host_notes(source: Source, host: HostPicture) -> Sequence[str]:
    """Say how exactly a host's lanes stand in time, and what is wrong with its history."""
    said = [_counted(len(host.entries), "line")]
    if host.clock is None:
        said.append("no line has a time: its lanes begin in 1970")
    else:
        said.append(f"placed by its own clock, to within {max(host.clock.doubt, 0.05):.1f} s")
        for step in host.clock.steps:
            where = day_and_time(step.before + host.clock.shift + source.offset)
            said.append(f"its clock was set by {step.by:+.0f} s before {where}; all is placed by the clock behind that")
    if source.clock_note:
        said.append(source.clock_note)
    if source.offset:
        said.append(f"moved by {source.offset:+g} s, as was asked for")
    if host.faults:
        first = host.faults[0]
        said.append(
            f"{_counted(len(host.faults), 'line')} cannot follow those above: some are lacking, or were changed"
            f" (line {first.line}, {first.code}: {first.text})"
        )
    return said


def _paragraph(text: str, escape: bool = True) -> str:
    return tag("p", {"class": "quiet"}, escaped(text) if escape else text)
