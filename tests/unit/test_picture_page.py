"""The page and the drawing: strangers' words are text, nothing comes from outside, bars stand where they belong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.picture_histories import HOSTILE, SCRIPTS, outage
from vmguard.core.pictures import page
from vmguard.core.pictures.axis import Axis
from vmguard.core.pictures.bars import Kind, Lane, Place
from vmguard.core.pictures.chapters import Album, Source, album
from vmguard.core.pictures.drawing import axis_of, panels
from vmguard.core.pictures.entry import Entry
from vmguard.core.pictures.markup import escaped
from vmguard.core.words import printable

SVG = "{http://www.w3.org/2000/svg}"
MADE = 1795179600.0


def source(host: str, names: Sequence[str] = ("web", "db"), **options: float) -> Source:
    return Source(host, [Entry.from_json(line) for line in outage(names, **options)])


def parsed(found: Album) -> ET.Element:
    return ET.fromstring(page.html(found, "t", MADE).removeprefix("<!DOCTYPE html>\n"))


def bars(root: ET.Element, kind: str) -> list[ET.Element]:
    return [group for group in root.iter(f"{SVG}g") if group.get("data-kind") == kind]


# -- strangers' words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HOSTILE, *SCRIPTS])
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    plain, hostile = parsed(album([source("a", ["x"])])), parsed(album([source("a", [name])]))
    assert [element.tag for element in hostile.iter()] == [element.tag for element in plain.iter()]
    assert printable(name) in "".join(hostile.itertext())
    for element in hostile.iter():
        assert not any(key.startswith("on") or key.endswith(("href", "src")) for key in element.attrib), element.attrib


def test_control_a_name_that_were_not_escaped_would_be_seen() -> None:
    text = page.html(album([source("a", ["<b>x</b>"])]), "t", MADE).removeprefix("<!DOCTYPE html>\n")
    ET.fromstring(text)
    with pytest.raises(ET.ParseError):
        ET.fromstring(text.replace("&lt;b&gt;x&lt;/b&gt;", "<b>x</b>"))


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_escaped_text_is_read_back_as_it_is_shown(text: str) -> None:
    assert ET.fromstring(f'<a b="{escaped(text)}">{escaped(text)}</a>').get("b") == printable(text)


def test_a_page_needs_nothing_from_outside_and_no_script() -> None:
    text = page.html(album([source("a", HOSTILE)]), "t", MADE)
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "link", "img", "image", "use", "iframe", "object", "a", "foreignObject"}
    style = "".join(element.text or "" for element in root.iter("style"))
    assert re.findall(r"url\(([^)]*)\)|@import", style) == ["#hatch"]
    policy = next(meta for meta in root.iter("meta") if meta.get("http-equiv"))
    assert policy.get("content") == "default-src 'none'; style-src 'unsafe-inline'"


# -- what stands where ----------------------------------------------------------------------------------------------


def test_each_bar_stands_where_its_seconds_are() -> None:
    found = album([source("a")])
    axis = axis_of(found.chapters[0])
    (late,) = bars(parsed(found), "late")
    box = next(rect for rect in late.iter(f"{SVG}rect"))
    begin, end = float(late.get("data-begin", "")), float(late.get("data-end", ""))
    assert end - begin == pytest.approx(4.6, abs=0.002)
    assert float(box.get("x", "")) == pytest.approx(axis.x(begin), abs=0.01)
    assert float(box.get("width", "")) == pytest.approx(axis.x(end) - axis.x(begin), abs=0.02)


def test_the_page_says_the_zone_of_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        text = page.html(album([source("a")]), "t", MADE)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "IST (UTC+05:30)" in text
    assert "18:31:48.0" in text, "13:01:48 UTC, when its VMs were frozen"


def test_sixty_vms_are_drawn_in_sheets_and_told_in_a_row() -> None:
    found = album([source("a", [f"vm-{number}" for number in range(60)])])
    root = parsed(found)
    assert len(bars(root, "frozen")) == 60
    sheets = list(root.iter(f"{SVG}svg"))
    assert [len(bars(sheet, "frozen")) for sheet in sheets] == [12, 26, 22]
    row = next(row for row in root.iter("tr") if row.get("data-kind") == "frozen")
    assert "59 VMs: vm-0, vm-1, vm-2" in "".join(row.itertext())


def test_a_host_begins_a_sheet_where_it_can() -> None:
    lanes = [Lane(host, place, "", "") for host in "ab" for place in (Place.HOST, *[Place.VM] * 9)]
    assert [len(part) for part in panels(lanes, 18, 26)] == [10, 10]
    assert [len(part) for part in panels(lanes, 20, 26)] == [20]
    assert list(panels([], 18, 26)) == [[]]


# -- the axis ---------------------------------------------------------------------------------------------------------


def test_a_long_stretch_without_anything_is_cut_out_and_said() -> None:
    axis = Axis(0, 7230, [0, 10, 20, 7220, 7230], 0, 1000)
    assert [piece.cut for piece in axis.pieces] == [False, True, False]
    assert axis.x(20) > 350
    places = [axis.x(second) for second in (0, 10, 20, 3000, 7220, 7230)]
    assert places == sorted(set(places))
    assert places[0] == 0
    assert places[-1] == pytest.approx(1000)


@pytest.mark.parametrize("points", [[0, 50, 100], list(range(0, 601, 60)), [0, 33, 90]])
def test_an_axis_without_such_a_stretch_is_straight(points: list[float]) -> None:
    axis = Axis(points[0], points[-1], points, 0, 1000)
    assert [piece.cut for piece in axis.pieces] == [False]


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_any_axis_goes_forward_and_keeps_its_ticks_apart(points: list[float]) -> None:
    axis = Axis(min(points), max(points), points, 190, 944)
    places = [axis.x(second) for second in sorted(points)]
    assert all(earlier <= later + 1e-6 for earlier, later in zip(places, places[1:], strict=False))
    assert all(190 - 1e-6 <= place <= 944 + 1e-6 for place in places)
    ticks = [axis.x(second) for second in axis.ticks(min(points))]
    assert all(later - earlier >= 45 for earlier, later in zip(ticks, ticks[1:], strict=False))


# -- several hosts ----------------------------------------------------------------------------------------------------


def test_one_incident_of_two_hosts_is_one_chapter() -> None:
    found = album([source("a", begin=100), source("b", begin=5000, ahead=-4899)])
    (chapter,) = found.chapters
    assert {lane.host for lane in chapter.lanes} == {"a", "b"}
    frozen = {lane.host: bar.begin for lane in chapter.lanes for bar in lane.bars if bar.kind is Kind.FROZEN}
    assert frozen["b"] - frozen["a"] == pytest.approx(1, abs=0.6), "by their own clocks, whatever their boot clocks say"


def test_a_heading_does_not_speak_for_two_different_outages() -> None:
    """A reboot without a loss and a cut with one, joined by another host's line: each is said for itself."""
    harmless = [
        line for line in outage(["web", "db"], 100) if "lost" not in line["code"] and "fence" not in line["code"]
    ]
    a = [*harmless, *outage(["web"], 200)[1:]]
    between = [{**outage(["x"], 240)[0], "boottime": second} for second in (110.0, 190.0, 220.0)]
    found = album(
        [Source(host, [Entry.from_json(line) for line in lines]) for host, lines in (("a", a), ("b", between))]
    )
    (chapter,) = found.chapters
    assert "no lock" not in page.headline(chapter)
    assert [outage.words.partition(";")[0] for outage in chapter.kinds] == [
        "the way to the storage was cut",
        "the storage came back, and a lock was lost",
    ]
    assert "13:03:23.4 a: the storage came back, and a lock was lost" in "".join(parsed(found).itertext())


def test_what_an_admin_adds_to_a_clock_moves_its_lanes_and_is_said() -> None:
    plain, other = source("a"), source("b")
    moved = Source("b", other.entries, offset=7.0)
    found = album([plain, moved])
    frozen = {lane.host: bar.begin for lane in found.chapters[0].lanes for bar in lane.bars if bar.kind is Kind.FROZEN}
    assert frozen["b"] - frozen["a"] == pytest.approx(7)
    assert "moved by +7 s, as was asked for" in page.html(found, "t", MADE)


def test_two_incidents_of_one_host_are_two_chapters_and_the_newest_can_be_chosen() -> None:
    lines = [*outage(["web"], 100), *outage(["db"], 2000)[1:]]
    both = Source("a", [Entry.from_json(line) for line in lines])
    assert len(album([both]).chapters) == 2
    (newest,) = album([both], last=1).chapters
    assert {lane.name for lane in newest.lanes if lane.place is Place.VM} == {"db"}
    (of_web,) = album([both], vm="web").chapters
    assert {lane.name for lane in of_web.lanes if lane.place is Place.VM} == {"web"}
    assert album([both], since=4e9).chapters == ()
    assert "Nothing is in these histories" in page.html(album([both], since=4e9), "t", MADE)
