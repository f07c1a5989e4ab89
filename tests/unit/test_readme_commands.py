"""What README.md and packaging/docs tell people to type exists: commands with options, keys, tests by name."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmguard.cli.main import ALIASES, all_parsers
from vmguard.config import settings
from vmguard.config.settings import TARGETS, VM_KEYS
from vmguard.core.watchdog.trace import CODES
from vmguard.doctor.catalogue import CHECKS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "packaging/docs").glob("*.md"))}
ALL = "\n".join([README, *DOCS.values()])
PARSERS = all_parsers()
#: options of all commands, and words that stand for something
_COMMON = {"--json", "--no-color", "--timeout", "--config", "--help"}
_PLACEHOLDERS = {"VM": "web", "FILE": "/x", "N": "100", "S": "nas", "PID": "4711"}


def typed(text: str) -> Iterator[str]:
    """The commands of a text: indented lines as far as their remark, and words in backticks."""
    for line in re.findall(r"^    (?:# )?(.+)$", text, re.MULTILINE):
        yield from (part.strip() for part in re.split(r" {2,}#|&&", line))
    yield from re.findall(r"`([^`\n]+)`", text)


def vmguards(text: str) -> list[str]:
    return [command for command in typed(text) if command.startswith("vmguard ") and not command.endswith("...")]


def problem(command: str) -> str:
    """Why a command of vmguard's does not parse; empty if it does. ``a|b``: each, ``[x]``: with and without."""
    bare = re.sub(r" *\[[^\]]*\]", "", command)
    for variant in {bare, re.sub(r"\[([^\]]*?)(\.\.\.)?\]", r"\1", command)}:
        _, given, *words = shlex.split(variant)
        name = ALIASES.get(given, given)
        if name not in PARSERS:
            return f"there is no command {name!r}"
        words = [_PLACEHOLDERS.get(word, word) for word in words]
        for choice in words[0].split("|") if words and "|" in words[0] else [None]:
            wrong = refusal(PARSERS[name], [choice, *words[1:]] if choice else words)
            if wrong:
                return wrong
    return ""


def refusal(parser: argparse.ArgumentParser, words: list[str]) -> str:
    try:
        parser.parse_args(words)
    except Exception as refused:
        # Text speaks of a command by its name alone, too: what it needs is then not missing.
        return "" if "required" in str(refused) and not words else str(refused)
    return ""


@pytest.mark.parametrize("command", sorted(set(vmguards(ALL))))
def test_each_command_of_the_documentation_is_one(command: str) -> None:
    assert problem(command) == ""


def test_the_documentation_has_commands() -> None:
    assert len(set(vmguards(ALL))) > 35


@pytest.mark.parametrize(
    "wrong", ["vmguard chekc web", "vmguard check --jsn web", "vmguard enable xen", "vmguard adopt --al"]
)
def test_negative_control_a_wrong_command_is_seen(wrong: str) -> None:
    assert problem(wrong)


def keys(text: str) -> list[str]:
    sections = {row.section for row in settings()}
    found = re.findall(r"`([a-z_]+)\.([a-z_]+)(?:: [^`]*)?`", text)
    return [f"{section}.{key}" for section, key in found if section in sections]


def test_each_key_of_the_documentation_is_one() -> None:
    known = (
        {row.name for row in settings()} | set(CHECKS) | set(CODES) | {".".join(TARGETS)}
    )  # all of them have sections
    assert len(keys(ALL)) > 15
    assert [key for key in keys(ALL) if key not in known] == []


def test_what_an_entry_of_vms_may_have_is_said_in_full() -> None:
    [listed] = re.findall(r"own entry in `vms:` \((.*?)\)", DOCS["failures.md"], re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == set(VM_KEYS)


def test_each_selection_of_tests_finds_some() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"^def test_(\w+)", sources, re.MULTILINE)
    chosen = re.findall(r"tests/run (?:--long )?-k (\w+)", README)
    assert len(chosen) > 8
    assert [word for word in chosen if not any(word in name for name in names)] == []
