"""The pictures in a real browser, with scripts switched off: bars stand where the lines of the history say.

``VMGUARD_PICTURES=FOLDER`` keeps the screenshots, for people to look at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import browser
from tests.support.browser import Browser
from tests.support.picture_histories import HOSTILE, SCRIPTS, outage
from vmguard.core.pictures import page
from vmguard.core.pictures.chapters import Source, album
from vmguard.core.pictures.entry import Entry
from vmguard.core.words import printable

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not browser.is_there(), reason="there is no chromium-headless-shell: tests/setup"),
]


class Drawn(NamedTuple):
    """A bar in the browser: pixels, and what it is of."""

    kind: str
    left: float
    right: float
    colour: str


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("VMGUARD_PICTURES") or tmp_path)
    folder.mkdir(exist_ok=True)
    return folder


def written(folder: Path, name: str, *sources: Source) -> Path:
    path = folder / f"{name}.html"
    path.write_text(page.html(album(sources), f"vmguard: {name}", 1795179600.0))
    return path


def source(host: str, names: list[str], **options: float) -> Source:
    return Source(host, [Entry.from_json(line) for line in outage(names, **options)])


def bars(chromium: Browser, *kinds: str) -> list[Drawn]:
    found = []
    for attributes, (left, _, width, _), colour in chromium.boxes():
        words = attributes.get("class", "").split()
        in_legend = attributes.get("x") == "0"
        if attributes[""] == "rect" and words[:1] == ["bar"] and words[1] in kinds and not in_legend:
            found.append(Drawn(words[1], left, left + width, colour))
    return found


def tick_scale(chromium: Browser) -> float:
    """Return pixels for a second, by the last two lines of the axis: they stand at round seconds."""
    lines = sorted(left for attributes, (left, *_), _ in chromium.boxes() if attributes.get("class") == "grid")
    marks = [float(text) for text in re.findall(r"^\+(\d+(?:\.\d)?) s$", chromium.text(), re.MULTILINE)]
    assert len(lines) == len(marks) >= 3
    return (lines[-1] - lines[-2]) / (marks[-1] - marks[-2])


def test_bars_are_where_the_lines_of_the_history_say(chromium: Browser, kept: Path) -> None:
    """The outage: late at 3.4 s after the last answer, frozen from 8 s to 22.5 s, recovering at 22 s."""
    chromium.open(written(kept, "incident", source("hyp-a", ["web", "db"], begin=95)))
    pixels = tick_scale(chromium)
    (late,), (silent,), (expired,) = (bars(chromium, kind) for kind in ("late", "silent", "expired"))
    frozen, fence = bars(chromium, "frozen"), bars(chromium, "fencing")
    assert len(frozen) == 2
    assert (late.right - late.left) / pixels == pytest.approx(8 - 3.4, abs=0.3)
    assert (silent.right - silent.left) / pixels == pytest.approx(3.4, abs=0.3)
    assert (expired.right - expired.left) / pixels == pytest.approx(12, abs=0.3)
    (longer,) = [bar for bar in frozen if (bar.right - bar.left) / pixels == pytest.approx(15, abs=0.3)]
    (shorter,) = [bar for bar in frozen if bar is not longer]
    assert (shorter.right - shorter.left) / pixels == pytest.approx(14.5, abs=0.3)
    assert fence[0].left == pytest.approx(longer.right, abs=2)
    assert late.left == pytest.approx(silent.right, abs=1)
    assert [bar.left for bar in frozen] == pytest.approx([late.right, late.right], abs=1)
    chromium.screenshot(kept / "light.png")


def test_by_night_the_colours_are_others(chromium: Browser, kept: Path) -> None:
    path = written(kept, "incident", source("hyp-a", ["web", "db"], begin=95), source("hyp-b", ["mail"], begin=95.7))
    colours = []
    for dark in (False, True):
        chromium.open(path, dark=dark)
        colours.append({bar.kind: bar.colour for bar in bars(chromium, "late", "expired", "recovering")})
        papers = {colour for attributes, _, colour in chromium.boxes() if attributes.get("class") == "paper"}
        colours[-1]["paper"] = next(iter(papers))
    assert colours[0].keys() == colours[1].keys()
    assert all(colours[0][kind] != colours[1][kind] for kind in colours[0]), colours
    chromium.screenshot(kept / "dark.png")


def test_on_paper_it_is_day_and_each_sheet_is_whole(chromium: Browser, kept: Path) -> None:
    path = written(kept, "sixty", source("hyp-a", [f"vm-{number}" for number in range(60)], begin=95))
    chromium.open(path, dark=True, medium="print", width=1030)
    papers = [(box, colour) for words, box, colour in chromium.boxes() if words.get("class") == "paper"]
    assert {colour for _, colour in papers} == {"rgb(255, 255, 255)"}
    assert len(papers) == 3
    #: A4 landscape, 96 dots an inch, 12 mm margins: 273 by 186 mm
    assert all(height <= 186 / 25.4 * 96 for (_, _, _, height), _ in papers)
    chromium.printed(kept / "sixty.pdf")
    assert (kept / "sixty.pdf").read_bytes().startswith(b"%PDF")
    chromium.screenshot(kept / "print.png")


def test_hostile_names_show_as_text(chromium: Browser, kept: Path) -> None:
    chromium.open(written(kept, "names", source("hyp-<b>", [*HOSTILE, *SCRIPTS], begin=95)))
    text = chromium.text()
    for name in (*HOSTILE, *SCRIPTS):
        assert printable(name) in text.replace("\n", ""), name
    assert chromium.title() == "vmguard: names"
    names = {attributes[""].lower() for attributes, _, _ in chromium.boxes()}
    assert not names & {"script", "img", "iframe", "a", "h3"}
    chromium.screenshot(kept / "names.png")


def test_control_a_page_that_runs_and_loads_what_it_is_told_would_be_seen(chromium: Browser, tmp_path: Path) -> None:
    """Without escaping the element is there; the policy and the missing scripts are a second wall."""
    path = tmp_path / "bad.html"
    path.write_text("<!DOCTYPE html><title>bad</title><p>x</p><img src='x.png'>")
    chromium.open(path)
    assert "img" in {attributes[""].lower() for attributes, _, _ in chromium.boxes()}


def test_a_drawing_stands_alone(chromium: Browser, kept: Path) -> None:
    path = kept / "incident.svg"
    path.write_text(page.svg(album([source("hyp-a", ["web", "db"], begin=95)]), "vmguard"))
    chromium.open(path, dark=True)
    assert len(bars(chromium, "frozen")) == 2
    chromium.screenshot(kept / "svg.png")
