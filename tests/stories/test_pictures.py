"""Every story as a picture: each bar against what was true in the world, and against the lines of the history."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.stories.play import load
from tests.stories.test_stories import STORIES
from tests.support.histories import entry
from vmguard.core.pictures import page
from vmguard.core.pictures.bars import STRIPS, Bar, Kind, Lane, Place
from vmguard.core.pictures.chapters import Source, album
from vmguard.core.pictures.entry import Entry
from vmguard.core.pictures.lanes import HostPicture, host_picture

#: from a decision to its proof, and back to the line about it
NEAR_S = 0.2

#: what the world says of a VM's process: tests/stories/host.py
_STATES = {"stands still": "frozen", "runs": "running", "is dead": "dead", "is killed, but in state D": "blocked"}
_STATE = re.compile(rf" *([\d.]+) (\S+) +(\S+) ({'|'.join(_STATES)})")

Truth = dict[tuple[str, str], list[tuple[float, str]]]


class Told:
    """A story: what its hosts wrote, and what was true of their VMs, from when on."""

    def __init__(self, folder: Path) -> None:
        self.truth: Truth = {}
        story = load(folder)
        for found in map(_STATE.fullmatch, story.play()):
            if found is not None:
                second, host, vm, words = found.groups()
                self.truth.setdefault((host, vm), []).append((float(second), _STATES[words]))
        self.hosts: dict[str, HostPicture] = {}
        for name, host in story.hosts.items():
            entries = [Entry.from_json(entry(*line)) for line in host.reports]
            self.hosts[name] = host_picture(name, entries, whole=True)

    def state(self, host: str, vm: str, second: float) -> str:
        """Return what was true of a VM; empty before anything happened to it."""
        return next((state for at, state in reversed(self.truth.get((host, vm), [])) if at <= second), "")


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    return Told(request.param)


def bars_at(lane: Lane, second: float, slack: float = 0.0) -> set[Kind]:
    return {bar.kind for bar in lane.bars if bar.begin - slack <= second <= bar.end + slack}


def sampled(picture: HostPicture) -> list[float]:
    """Return seconds between all lines, so that each stretch is looked at, near its ends and in its middle."""
    at = sorted({line.boottime for line in picture.entries})
    pairs = [(begin, end) for begin, end in itertools.pairwise(at) if end - begin > 3 * NEAR_S]
    return [second for begin, end in pairs for second in (begin + NEAR_S, (begin + end) / 2, end - NEAR_S)]


@pytest.mark.parametrize("told", STORIES, indirect=True, ids=lambda path: path.name)
def test_a_story_as_a_picture(told: Told) -> None:
    frozen_exactly_while_it_stands_still(told)
    each_bar_has_lines_at_its_ends(told)
    no_bar_lies_upon_another(told)
    the_page_is_xml_and_has_every_line(told)


def frozen_exactly_while_it_stands_still(told: Told) -> None:
    for host, picture in told.hosts.items():
        for lane in picture.lanes:
            if lane.place is not Place.VM:
                continue
            for second in sampled(picture):
                state, kinds = told.state(host, lane.key, second), bars_at(lane, second)
                where = f"{lane.key} on {host} at {second:.2f}: {state or 'untouched'}, drawn {sorted(kinds)}"
                if Kind.FROZEN in kinds:
                    assert state == "frozen", where
                if state == "frozen":
                    assert kinds & {Kind.FROZEN, Kind.FENCING, Kind.UNKNOWN}, where
                if kinds & {Kind.WOULD_FREEZE, Kind.WOULD_FENCE} and not kinds & {Kind.FROZEN}:
                    assert state in ("", "running"), where


def each_bar_has_lines_at_its_ends(told: Told) -> None:
    for picture in told.hosts.values():
        seconds = {round(line.boottime, 3) for line in picture.entries}
        ages = {round(line.boottime - age, 3) for line in picture.entries if (age := line.number("age")) is not None}
        for lane in picture.lanes:
            for bar in lane.bars:
                assert bar.begin <= bar.end
                begins = seconds | ages if bar.kind is Kind.SILENT else seconds
                if bar.kind is not Kind.ASLEEP and bar.begin_known:
                    assert round(bar.begin, 3) in begins, bar
                if bar.end_known and bar.kind is not Kind.UNKNOWN:  # which may end by the words of a line
                    assert round(bar.end, 3) in seconds, bar


def no_bar_lies_upon_another(told: Told) -> None:
    for picture in told.hosts.values():
        for lane in picture.lanes:
            apart = [bar for bar in lane.bars if bar.kind not in STRIPS]
            if lane.place is not Place.HOST:
                assert overlaps(apart) == [], lane.name


def overlaps(bars: list[Bar]) -> list[tuple[Bar, Bar]]:
    ordered = sorted(bars, key=lambda bar: (bar.begin, bar.end))
    return [(one, other) for one, other in itertools.pairwise(ordered) if other.begin < one.end - 1e-6]


def the_page_is_xml_and_has_every_line(told: Told) -> None:
    hosts = told.hosts.items()
    found = album([Source(name, picture.entries) for name, picture in hosts if picture.entries])
    if not found.sources:
        return
    text = page.html(found, "story", 0.0)
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    ET.fromstring(page.svg(found, "story"))
    lines = sum(len(chapter.lines) for chapter in found.chapters)
    assert lines == sum(len(picture.entries) for _, picture in hosts)


def test_the_world_tells_when_its_vms_stand_still() -> None:
    told = Told(next(path for path in STORIES if path.name.startswith("02-")))
    assert [state for _, state in told.truth["A", "web"]] == ["running", "frozen", "running"]


def test_control_a_bar_that_is_moved_is_seen() -> None:
    """The comparison with the world fails for a picture that is two seconds late."""
    folder = next(path for path in STORIES if path.name.startswith("02-"))
    told = Told(folder)
    picture = told.hosts["A"]
    lanes = tuple(lane.moved(2.0, lane.host) for lane in picture.lanes)
    told.hosts["A"] = HostPicture("A", picture.entries, lanes, picture.clock)
    with pytest.raises(AssertionError):
        frozen_exactly_while_it_stands_still(told)
