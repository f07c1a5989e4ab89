"""The demo's judgements and its recording; the demo itself is tests/lab/demo."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.demo.disk import Write, proof
from tests.demo.record import asciicast, pieces, svg
from tests.demo.screen import STEP, Line, Row

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "packaging/docs/demo.svg"

LINES = [
    Line(0.5, "hyp-a: virsh start web", STEP),
    Line(1.25, "refused: <b> & " + "a word " * 30, "yellow"),
    Line(70.0, "next: this and that"),
]
ROWS = [Row("storage", "up"), Row("hyp-a", "up", "web FENCED", "", "300 ok, 0 failed")]


def test_one_after_the_other_has_no_overlap() -> None:
    found = proof([Write(1.0, 300), Write(1.1, 301), Write(9.0, 1), Write(9.1, 2), Write(9.2, 3)], 300)
    assert (found.overlap, found.steps_back) == (0, 1)
    assert found.gap == pytest.approx(7.9)


def test_negative_control_two_at_a_time_overlap() -> None:
    writes = [Write(1.0, 300), Write(2.0, 1), Write(2.1, 301), Write(2.2, 2), Write(2.3, 302), Write(2.4, 3)]
    found = proof(writes, 300)
    assert (found.overlap, found.steps_back) == (2, 3)
    assert found.gap < 0


def test_a_vm_that_never_wrote_is_no_proof() -> None:
    with pytest.raises(ValueError, match="only one VM wrote"):
        proof([Write(1.0, 300), Write(1.1, 301)], 300)


def test_every_line_of_the_recording_fits_and_none_is_lost() -> None:
    story = pieces(LINES, ROWS)
    assert all(len(piece.margin + piece.text) <= 110 for piece in story)
    words = " ".join(piece.text for piece in story).split()
    assert [word for line in LINES for word in line.text.split() if word not in words] == []
    assert "FENCED" in words


def test_the_picture_is_a_picture_alone() -> None:
    picture = svg(LINES, ROWS, "a <title>")
    ElementTree.fromstring(picture)
    assert not re.search(r"<script|href|url\(|@import|\son\w+=", picture)
    assert "prefers-color-scheme:dark" in picture
    assert "&lt;b&gt; &amp; a word" in picture


def test_the_asciicast_has_each_line_in_its_second() -> None:
    header, *played = [json.loads(line) for line in asciicast(LINES, ROWS, "title").splitlines()]
    assert header["version"] == 2
    assert [second for second, _, _ in played][:2] == [0.5, 1.25]
    assert all(kind == "o" and text.endswith("\r\n") for _, kind, text in played)


def test_the_readme_shows_a_recording_of_a_whole_run() -> None:
    assert f"]({RECORDING.relative_to(ROOT)})" in (ROOT / "README.md").read_text()
    picture = RECORDING.read_text()
    assert len(picture) < 40_000
    assert not re.search(r"<script|href|url\(|\son\w+=", picture)
    told = " ".join("".join(line.itertext()).strip() for line in ElementTree.fromstring(picture))
    for words in ("WITHOUT vmguard", "the disk is destroyed", "overlap 0, I/O errors 0", "web FENCED", "next: "):
        assert words in told
