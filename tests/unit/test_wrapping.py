"""Lines of text at a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.cli.wrapping import columns, wrapped


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert wrapped("  two  spaces ", 20) == ["  two  spaces "]


def test_later_lines_are_indented_below_the_first() -> None:
    assert wrapped("WARNING: one two three four", 14) == ["WARNING: one", "  two three", "  four"]
    assert wrapped("    /srv/vm is full of it", 16) == ["    /srv/vm is", "      full of it"]


@pytest.mark.parametrize(
    ("line", "later"),
    [("      why   : the server forgets", "              "), ("   8.0 s freeze every VM here", "         "),
     ("   +8.00 s !! it is dead now", "              ")],
)  # fmt: skip
def test_a_label_or_a_second_keeps_its_column(line: str, later: str) -> None:
    first, second, *_ = wrapped(line, 24)
    assert line.startswith(first)
    assert len(second) - len(second.lstrip()) == len(later)


def test_a_word_that_is_wider_than_the_line_is_not_broken() -> None:
    path = "/a/very/long/path/to/a/disk.raw"
    assert wrapped(f"see {path} now", 12) == [f"see {path}", "  now"]


def test_wide_characters_count_twice() -> None:
    assert wrapped("日本 日本", 6) == ["日本", "  日本"]


@given(st.text(st.sampled_from("ab :日"), max_size=60), st.integers(1, 40))
def test_no_word_is_lost(text: str, width: int) -> None:
    assert " ".join(wrapped(text, width)).split() == text.split()


@given(st.lists(st.text("ab:", min_size=1, max_size=8), min_size=1), st.integers(14, 40))
def test_every_line_fits(words: list[str], width: int) -> None:
    assert max(map(columns, wrapped(" ".join(words), width))) <= width
