"""The documents and the code say the same: paths, links, drawings, codes, versions, and the files of .github.

vmguard/README.md draws in fenced blocks: ``states`` (``[NAME] where``, then ``old -> new, new`` and a remark after two
spaces), ``needs``, ``parts`` and ``daemon`` (a row of names and a remark; a name knows only names of rows below).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import vmguard
from tests.support.source_tree import MODULES, ROOT
from tests.unit.test_structure import ARROWS, FOLDERS
from vmguard.core.locks import claim_states, guard_states
from vmguard.core.watchdog import stance, states
from vmguard.core.watchdog.case import Need
from vmguard.core.watchdog.fence_ladder import Rung

MAP = (ROOT / "vmguard/README.md").read_text()
CHANGELOG = (ROOT / "packaging/CHANGELOG.md").read_text()
PACKAGING = (ROOT / "packaging/README.md").read_text()

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "vmguard/README.md",
    ROOT / "packaging/README.md",
    ROOT / "packaging/CHANGELOG.md",
    *sorted((ROOT / "packaging/docs").glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
]

# -- paths and links --------------------------------------------------------------------------------------------------

#: folders at the top of the tree; a path that begins with one of them is a path of this tree
TOP = {".ci", ".github", "config", "hooks", "packaging", "tests", "vmguard"}
_PATH = re.compile(r"(?<![\w/.~:@<$*-])((?:\.?[\w*-]+/)+[\w.*-]*[\w*])")
_FILE = re.compile(r"\.(?:py|sh|md|yaml|yml|toml|service|socket|spec|s|c)$")
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


def named_paths(text: str, folder: Path) -> set[str]:
    """Return the paths of this tree that a text names: below the top, below the text's folder, or by their ending."""
    here = {path.name for path in folder.iterdir() if path.is_dir()} if folder != ROOT else set()
    found = {path.rstrip(".") for path in _PATH.findall(_LINK.sub("]()", text))}
    return {path for path in found if path.partition("/")[0] in TOP | here or _FILE.search(path)}


def missing(text: str, folder: Path) -> list[str]:
    """Return the paths and links of a text in a folder that lead nowhere."""
    paths = [path for path in named_paths(text, folder) if not any(any(base.glob(path)) for base in (ROOT, folder))]
    links = [link for link in _LINK.findall(text) if "://" not in link and not (folder / link).exists()]
    return sorted(paths + links)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_every_link_leads_somewhere(path: Path) -> None:
    assert missing(path.read_text(), path.parent) == []


def test_negative_control_a_path_and_a_link_that_lead_nowhere_are_seen() -> None:
    text = """`core/gone.py`, vmguard/errors.py, daemon/nothing, tests/run, tests/ran. /etc/vmguard/x.yaml, and/or,
    [good](../README.md#the-commands) [bad](../READ.md) [away](https://example.org/x.md) local:snippets/vmguard"""
    assert missing(text, ROOT / "vmguard") == ["../READ.md", "core/gone.py", "daemon/nothing", "tests/ran"]


# -- drawings ---------------------------------------------------------------------------------------------------------

Moves = dict[str, list[str]]


def block(name: str, text: str = MAP) -> list[str]:
    """Return the lines of the fenced block of that name."""
    found = re.findall(rf"^```{name}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} blocks are called {name}"
    return str(found[0]).splitlines()


def drawn_machines(lines: Iterable[str]) -> dict[str, Moves]:
    """Return the moves of each machine, sorted. A line that is neither a heading nor a move is an error."""
    machines: dict[str, Moves] = {}
    moves: Moves = {}
    for line in filter(None, lines):
        heading = re.match(r"\[(\w+)\] ", line)
        if heading:
            moves = machines[heading[1]] = {}
            continue
        move = re.fullmatch(r"([\w-]+) +-> ([\w-]+(?:, [\w-]+)*)(?: {2,}\S.*)?", line)
        assert move, f"no move: {line!r}"
        assert move[1] not in moves, f"{move[1]} is drawn twice"
        moves[move[1]] = sorted(set(move[2].split(", ")) - {"nothing"})
    return machines


def table(moves: Mapping[Any, Iterable[Any]]) -> Moves:
    """Return the code's table of moves as it is drawn; a state that may follow itself is not drawn."""
    return {str(old): sorted(str(new) for new in follow if new is not old) for old, follow in moves.items()}


MACHINES: dict[str, Moves] = {
    "claim": table(claim_states.MOVES),
    "guard": table(guard_states.MOVES),
    "lease": table(states.MOVES),
    "stance": table(stance.MOVES),
}


def test_four_machines_are_drawn() -> None:
    assert list(drawn_machines(block("states"))) == ["claim", "guard", "lease", "stance"]


@pytest.mark.parametrize("name", MACHINES)
def test_the_drawn_machine_is_that_of_the_code(name: str) -> None:
    assert drawn_machines(block("states"))[name] == MACHINES[name]


def test_negative_control_a_wrong_move_is_seen() -> None:
    lines = block("states")
    for name in MACHINES:
        at = next(number for number, line in enumerate(lines) if line.startswith(f"[{name}]")) + 1
        for wrong in ([], [re.sub(r"-> [\w-]+", "-> invented", lines[at], count=1)]):
            changed = drawn_machines([*lines[:at], *wrong, *lines[at + 1 :]])
            assert changed[name] != MACHINES[name]


def test_negative_control_a_line_that_is_no_move_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no move"):
        drawn_machines(["[claim] x", "offered => claimed"])


def test_the_needs_are_drawn_from_weak_to_strong() -> None:
    assert [line.split()[0] for line in block("needs")] == [need.name for need in Need]


def test_the_steps_of_a_fence_are_drawn_in_their_order() -> None:
    drawn = re.search(r"`(copy -> [^`]*)`", MAP)
    assert drawn is not None
    assert drawn[1].split(" -> ") == [str(rung) for rung in Rung]


def rows(lines: Iterable[str]) -> list[list[str]]:
    """Return the names in each row of a picture: single words, each with two spaces or more behind it."""
    found = []
    for line in lines:
        words = re.split(r" {2,}", line.strip())
        count = next((number for number, word in enumerate(words) if not re.fullmatch(r"\w+", word)), len(words))
        found.append(words[:count])
    return found


def wrong_picture(drawn: list[list[str]], arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """Return what a picture has too much or too little, and every arrow that does not point down."""
    level = {name: number for number, row in enumerate(drawn) for name in row}
    wrong = [f"{name} is not drawn" for name in arrows if name not in level and name != "__init__"]
    wrong += [f"{name} is not there" for row in drawn for name in row if name not in arrows]
    for name, known in arrows.items():
        wrong += [
            f"{name} -> {other} does not point down" for other in known if level.get(other, 99) <= level.get(name, -1)
        ]
    return wrong


@pytest.mark.parametrize(("name", "arrows"), [("parts", ARROWS), ("daemon", FOLDERS["daemon"])])
def test_in_the_pictures_all_arrows_point_down(name: str, arrows: dict[str, set[str]]) -> None:
    assert wrong_picture(rows(block(name)), arrows) == []


def test_negative_control_wrong_pictures_are_seen() -> None:
    lines = ["top          the first", "left   right   two words", "base"]
    arrows = {"top": {"left", "right"}, "left": {"base"}, "right": {"base"}, "base": set[str]()}
    assert wrong_picture(rows(lines), arrows) == []
    assert wrong_picture(rows(lines), {**arrows, "left": {"right"}}) == ["left -> right does not point down"]
    assert wrong_picture(rows(lines), {**arrows, "base": {"top"}}) == ["base -> top does not point down"]
    assert wrong_picture(rows([*lines, "more"]), arrows) == ["more is not there"]
    assert wrong_picture(rows(lines[:2]), arrows) == ["base is not drawn"]


# -- words ------------------------------------------------------------------------------------------------------------

WORDS = {
    *("lease", "grace", "reclaim", "byte range", "open file description", "claim", "hold", "pin", "reservation byte"),
    *("fence", "freeze", "thaw", "stance", "need", "verdict", "probe", "epoch", "owner record", "rival", "conflict"),
    *("domain", "vmid", "hook", "prefork", "fault point", "story"),
}


def section(title: str, text: str = MAP) -> str:
    """Return what stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {title!r}"
    return found[1]


def glossary(text: str) -> set[str]:
    """Return the words of the glossary's rows that have a meaning."""
    found = re.findall(r"^\| ([^|]+?) \| [^|]{10,} \|$", text, re.MULTILINE)
    return {word for words in found for word in words.split(", ")}


def test_the_glossary_has_the_words_of_the_field() -> None:
    words = glossary(section("Glossary"))
    assert len(words) >= 25
    assert words >= WORDS


def test_negative_control_a_word_without_a_meaning_is_none() -> None:
    assert glossary("| lease | the time of a lock |\n| grace |  |\n| a, b | both of these |") == {"lease", "a", "b"}


def test_what_was_not_chosen_is_listed() -> None:
    decided = [
        str(path.relative_to(ROOT / "vmguard")) for path in MODULES.values() if "Not chosen:" in path.read_text()
    ]
    assert len(decided) >= 3, "where are the paragraphs that say it?"
    listed = section("Not chosen, and why")
    assert [path for path in sorted(decided) if path not in listed] == []


# -- changes and releases ---------------------------------------------------------------------------------------------


def test_the_changelog_names_versions_newest_first_and_only_reports_that_exist() -> None:
    versions = re.findall(r"^## (\S+)", CHANGELOG, re.MULTILINE)
    packaged = re.findall(r"^vmguard \((\S+)\)", (ROOT / "packaging/debian/changelog").read_text(), re.MULTILINE)
    assert versions[0] == "Unreleased" or versions == packaged
    assert [version for version in versions if version != "Unreleased"] == packaged
    source = "".join(path.read_text() for path in MODULES.values()) + "".join(f'"fence.{rung}"' for rung in Rung)
    codes = set(re.findall(r"`((?:vm|mount|lock|watch|fence)\.[a-z-]+)`", CHANGELOG))
    assert len(codes) >= 4
    assert [code for code in sorted(codes) if f'"{code}"' not in source] == []


#: the places of the version that packaging/README.md lists
VERSIONS = {
    "vmguard/__init__.py": r'^__version__ = "(\S+)"',
    "pyproject.toml": r'^version = "(\S+)"',
    "packaging/vmguard.spec": r"vmguard_version: %global vmguard_version (\S+)\}",
    "packaging/debian/changelog": r"\Avmguard \((\S+)\)",
}


@pytest.mark.parametrize("name", VERSIONS)
def test_a_release_is_written_down_in_each_place(name: str) -> None:
    found = re.search(VERSIONS[name], (ROOT / name).read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == vmguard.__version__
    assert f"`{name}`" in section("A release", PACKAGING)


def test_packaging_readme_names_every_file_of_its_folder() -> None:
    folder = ROOT / "packaging"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert len(files) > 10
    assert [name for name in sorted(files - {"README.md"}) if name not in PACKAGING] == []


# -- .github ----------------------------------------------------------------------------------------------------------


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / ".github" / name).read_text())


def test_pre_commit_runs_the_linters_of_tests_run_in_the_projects_own_venv() -> None:
    linters = re.findall(r"^check (.+)$", (ROOT / "tests/run").read_text(), re.MULTILINE)
    assert len(linters) == 3
    (repository,) = loaded("pre-commit.yaml")["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    assert [hook["entry"] for hook in repository["hooks"]] == [f".venv/bin/python -m {words}" for words in linters]
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in repository["hooks"])


def test_the_bug_form_asks_for_what_a_bug_report_needs() -> None:
    form = loaded("ISSUE_TEMPLATE/bug.yml")
    fields = {part["id"]: part for part in form["body"] if part["type"] != "markdown"}
    assert {"happened", "expected", "report", "versions", "server", "hypervisor"} <= fields.keys()
    assert "vmguard report" in fields["report"]["attributes"]["description"]
    assert all(fields[name]["validations"]["required"] for name in ("happened", "expected", "versions", "server"))
    assert isinstance(loaded("ISSUE_TEMPLATE/config.yml")["blank_issues_enabled"], bool)


def test_the_workflow_runs_what_everybody_runs() -> None:
    jobs = loaded("workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert any(command.startswith(".ci/run") for command in commands)
    for job in jobs.values():
        assert str(job["container"]["image"]).startswith("debian:"), "tests/setup knows Debian only"


# -- security ---------------------------------------------------------------------------------------------------------

SECURITY = (ROOT / ".github/SECURITY.md").read_text()


def test_each_attack_that_is_listed_is_played_by_a_test() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"\| `(test_\w+)` \|$", SECURITY, re.MULTILINE)
    assert len(named) == len(re.findall(r"^\| [^a]", SECURITY, re.MULTILINE)) > 12
    assert [name for name in named if f"def {name}(" not in sources] == []
