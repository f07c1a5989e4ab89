"""packaging/docs: its words as printed are in the code, its links reach a section, its lists are the program's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source_tree import MODULES
from vmguard.doctor.catalogue import CHECKS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "packaging/docs"
PAGES = sorted(DOCS.glob("*.md"))
#: stands for a name, a time or a number
_ANYTHING = "…"


# -- words as printed -------------------------------------------------------------------------------------------------


def literals(source: str) -> Iterator[str]:
    """The texts of a module; what is put into one at run time is written …, as in the documentation."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _ANYTHING for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


PRINTED = "\n".join(text for path in MODULES.values() for text in literals(path.read_text()))


def quoted(text: str) -> list[str]:
    """The words as printed that a page quotes: each quotation block is one."""
    return re.findall(r"^(?:\* +)?> (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("words", quoted((DOCS / "troubleshooting.md").read_text()))
def test_words_as_printed_are_words_of_the_code(words: str) -> None:
    assert words.removeprefix(_ANYTHING).removesuffix(_ANYTHING).strip() in PRINTED


def test_troubleshooting_quotes_much() -> None:
    assert len(quoted((DOCS / "troubleshooting.md").read_text())) > 15


def test_negative_control_words_that_nothing_prints_are_seen() -> None:
    assert "VM '…' is not begun: disk … is locked" not in PRINTED


#: what strangers ask -> what the place says to which one link of the README leads them
QUESTIONS = {
    "troubleshooting.md#my-vm-was-killed": "`vmguard history VM` has the reason",
    "troubleshooting.md#virsh-says-running-but-the-vm-hangs": "It is frozen, most likely",
    "howto.md#reboot-the-nas": "As long as you like",
    "howto.md#replace-a-dead-host": "`vmguard check VM`",
    "howto.md#remove": "`apt purge vmguard`",
}


@pytest.mark.parametrize("place", QUESTIONS)
def test_each_strangers_question_is_one_link_away(place: str) -> None:
    assert f"(packaging/docs/{place})" in (ROOT / "README.md").read_text()
    file, anchor = place.split("#")
    [section] = [
        part
        for part in re.split(r"^## ", (DOCS / file).read_text(), flags=re.MULTILINE)
        if anchors(f"# {part}") & {anchor}
    ]
    assert QUESTIONS[place] in " ".join(section.split())


# -- links to sections ------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def astray(page: Path) -> list[str]:
    """The links of a page to sections that are not there."""
    found = re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text())
    texts = {file: (page.parent / file if file else page).read_text() for file, _ in found}
    return [f"{file}#{anchor}" for file, anchor in found if anchor not in anchors(texts[file])]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_each_link_to_a_section_reaches_it(page: Path) -> None:
    assert astray(page) == []


def test_negative_control_a_link_astray_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One two\n[x](a.md#one-two) [y](#one-three)\n")
    assert astray(tmp_path / "a.md") == ["#one-three"]


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    assert [page.name for page in PAGES if f"({page.name})" not in index and page.name != "index.md"] == []


# -- lists ------------------------------------------------------------------------------------------------------------


def test_each_check_of_the_doctor_has_its_section_with_its_reason() -> None:
    text = (DOCS / "doctor.md").read_text()
    sections = dict(re.findall(r"^### (\S+)\n\n(.*?)\n(?=\n#|\Z)", text, re.MULTILINE | re.DOTALL))
    assert {check: " ".join(words.split()) for check, words in sections.items()} == {
        check: f"{why[0].upper()}{why[1:]}." for check, why in CHECKS.items()
    }


def test_the_readme_fits_on_a_screen_and_a_half() -> None:
    before_the_table = (ROOT / "README.md").read_text().partition("## What was measured")[0]
    assert len(before_the_table.splitlines()) <= 75
