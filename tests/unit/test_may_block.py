"""Who may read what can hang (vmguard/adapters/linux/may_block.py): nobody does so by accident."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vmguard"
HOME = "vmguard.adapters.linux.may_block"
#: module -> why it may read there
READERS = {
    "vmguard.daemon.runtime.command_lines": "in threads that nobody waits for",
    "vmguard.doctor.look_qemus": "in a child with a deadline",
    "vmguard.query.reports": "in a child with a deadline",
}
#: these two hang in a child of theirs alone
ONLY_WITHIN = {"vmguard.doctor.look_qemus", "vmguard.query.reports"}
#: files of /proc/PID that lie behind the process's mmap lock
_BEHIND_THE_LOCK = re.compile(r"/(cmdline|environ|maps|smaps|smaps_rollup|numa_maps|pagemap|mem)$")
#: the kernel's own command line is no process's
_HARMLESS = {"/proc/cmdline"}


def module_name(path: Path) -> str:
    words = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def used_of_it(source: str) -> Iterator[str]:
    """What a module takes of may_block: its functions, or ``*`` where that cannot be seen."""
    tree = ast.parse(source)
    name = HOME.rpartition(".")[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == HOME:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import) and any(alias.name == HOME for alias in node.names):
            yield "*"
        elif isinstance(node, ast.ImportFrom) and node.module == HOME.rpartition(".")[0]:
            yield from ("*" for alias in node.names if alias.name == name and alias.asname)
            if any(alias.name == name for alias in node.names):
                yield from (
                    used.attr
                    for used in ast.walk(tree)
                    if isinstance(used, ast.Attribute) and isinstance(used.value, ast.Name) and used.value.id == name
                )


def files_behind_the_lock(source: str) -> list[str]:
    """Texts in the code (not in docstrings) that name such a file."""
    tree = ast.parse(source)
    homes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    docstrings = {id(node.body[0].value) for node in homes if node.body and isinstance(node.body[0], ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    found = (str(node.value) for node in texts if isinstance(node.value, str))
    return [text for text in found if _BEHIND_THE_LOCK.search(text) and text not in _HARMLESS]


@pytest.mark.parametrize("module", MODULES)
def test_only_who_may_hang_reads_what_can_hang(module: str) -> None:
    source = MODULES[module].read_text()
    used = set(used_of_it(source))
    assert not used or module in READERS
    if module in ONLY_WITHIN:
        assert used <= {"cmdline_within", "cmdlines_within"}
    if module != HOME:
        assert files_behind_the_lock(source) == []


def test_all_who_may_do_so_still_do() -> None:
    assert {module for module, path in MODULES.items() if any(used_of_it(path.read_text()))} == set(READERS)


@pytest.mark.parametrize(
    "source",
    [
        "from vmguard.adapters.linux import may_block\nmay_block.cmdline(1)",
        "from vmguard.adapters.linux import may_block as proc\nproc.cmdline(1)",
        "from vmguard.adapters.linux.may_block import cmdline",
        "import vmguard.adapters.linux.may_block",
        "def f():\n    from vmguard.adapters.linux import may_block\n    return may_block.command_line",
    ],
)
def test_negative_control_a_use_is_seen(source: str) -> None:
    assert list(used_of_it(source))


@pytest.mark.parametrize(
    "source",
    ["open(f'/proc/{pid}/cmdline')", "x = '/proc/self/maps'", "def f():\n    'doc'\n    return x + '/environ'"],
)
def test_negative_control_a_read_of_ones_own_is_seen(source: str) -> None:
    assert len(files_behind_the_lock(source)) == 1


def test_the_home_itself_is_seen_to_read() -> None:
    assert files_behind_the_lock(MODULES[HOME].read_text()) == ["/cmdline"]
