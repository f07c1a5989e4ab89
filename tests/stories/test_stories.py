"""Stories of the watchdog in simulated time: what happens in events.yaml, the whole timeline in log.expect.

The world (world.py) checks the promise at every accepted write and at every change of a VM; the core checks its own
invariants at every step. A change of behaviour shows as a diff of a timeline: look at it, then write the new one with
``VMGUARD_REGOLD=1 pytest tests/stories``.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.stories.play import load
from tests.support.histories import entry
from vmguard.core.watchdog import trace

STORIES = sorted(path.parent for path in Path(__file__).parent.glob("*/events.yaml"))


@pytest.mark.parametrize("folder", STORIES, ids=lambda path: path.name)
def test_story(folder: Path) -> None:
    story = load(folder)
    lines = [*story.play(), *(f"{host.name} asked {host.asked}" for host in story.hosts.values() if host.asked)]
    text = "\n".join(lines) + "\n"
    assert sorted(set(story.sim.violations)) == sorted(story.plot.get("expect", [])), text
    assert story.ends() == story.plot.get("end", {}), text
    for host in story.hosts.values():
        assert trace.faults([entry(*line) for line in host.reports], whole=True) == [], host.name
    golden = folder / "log.expect"
    if os.environ.get("VMGUARD_REGOLD"):
        golden.write_text(text)
    expected = golden.read_text() if golden.exists() else ""
    assert text == expected, "\n".join(difflib.unified_diff(expected.splitlines(), lines, "log.expect", "now"))


def test_every_story_is_told() -> None:
    assert len(STORIES) >= 40
    for folder in STORIES:
        assert len((folder / "README").read_text().split()) >= 8, folder.name


def test_no_number_is_used_twice() -> None:
    numbers = Counter(folder.name.partition("-")[0] for folder in STORIES)
    assert [number for number, times in numbers.items() if times > 1] == []
