"""Texts of the kernel: their lines end with a newline, and with nothing else that Python takes for an end of a line.

A name in them is a stranger's: the kernel escapes the newline in it, and leaves a carriage return, a form feed or a
U+0085 as they are. ``str.splitlines`` would let such a name begin a line of its own.
"""

from __future__ import annotations

import ast

import pytest

from tests.support.source_tree import MODULES, part_of

#: what reads the kernel's texts, or judges them
READING = [name for name in MODULES if part_of(name) in ("adapters", "core", "daemon", "hook", "jobs")]


def other_ends(source: str) -> list[str]:
    """What in a module takes other ends of a line for one, too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "splitlines":
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "open" and "/proc/" in ast.unparse(node.args[0]):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "'r'"
            if (
                "b" not in mode
                and "w" not in mode
                and words.get("newline") != repr("\n")
                and "pid" in ast.unparse(node)
            ):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", READING)
def test_nothing_but_a_newline_ends_a_line_of_the_kernels(module: str) -> None:
    assert other_ends(MODULES[module].read_text()) == []


def test_negative_control_each_of_them_is_seen() -> None:
    source = "text.splitlines()\nopen(f'/proc/{pid}/comm', encoding='utf-8')\nopen(f'/proc/{pid}/stat', 'rb')"
    assert sorted(other_ends(source)) == ["open(f'/proc/{pid}/comm', encoding='utf-8')", "text.splitlines"]
