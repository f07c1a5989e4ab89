"""The direction of dependence, and the sizes: what the tree promises a reader is held by these tests.

An import counts wherever it stands, in a function or for the type checker only, too: it is knowledge all the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vmguard"
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

#: part of vmguard -> the parts that it may know; "version" is the package itself. Everybody may know itself.
ARROWS: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "faults": set(),
    "core": {"errors"},
    "protocol": {"core", "errors"},
    "config": {"core", "errors"},
    "adapters": {"core", "errors", "version"},
    "jobs": {"core", "adapters", "errors", "version"},
    "hook": {"core", "adapters", "protocol", "errors", "faults"},
    "daemon": {"core", "adapters", "jobs", "protocol", "config", "errors", "faults", "version"},
    "query": {"core", "adapters", "protocol", "errors"},
    "doctor": {"core", "adapters", "protocol", "config", "query", "errors", "version"},
    "cli": {"core", "adapters", "protocol", "config", "daemon", "query", "doctor", "errors", "version"},
    "__main__": {"cli"},
}
#: module -> parts that it may know besides, and why
EXCEPTIONS: dict[str, set[str]] = {
    "vmguard.cli.manual.pages": {"hook"},  # the page about the hooks is made from the table of their contract
    # imported only when the daemon does not answer: the admin's choice is in a file
    "vmguard.hook.daemon_absent": {"config"},
}
#: the pure core computes; what could ask the kernel for anything is not here
PURE = {
    *("__future__", "typing", "collections", "dataclasses", "enum", "abc", "functools", "itertools", "operator"),
    *("math", "bisect", "heapq", "string", "re", "json", "struct", "binascii", "hashlib", "datetime"),
    *("pyexpat", "xml", "_json"),
}
#: the platform's own libraries, each the business of one adapter
FOREIGN = {"libvirt", "proxmoxer", "requests"}
#: it closes descriptors on NFS while the whole daemon stands still: vmguard/adapters/linux/spawn.py does not
NOT_IN_THE_DAEMON = {"subprocess", "multiprocessing"}


def module_name(path: Path) -> str:
    words = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    words = module.split(".")
    return words[1] if len(words) > 1 else "version"


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is named in an import, vmguard's own by their full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def wrong_arrows(module: str, source: str) -> list[str]:
    part = part_of(module)
    allowed = ARROWS[part] | {part} | EXCEPTIONS.get(module, set())
    found = []
    for name in imports(ast.parse(source)):
        top = name.split(".")[0]
        if top == "vmguard":
            if part_of(name) not in allowed:
                found.append(f"{module} imports {name}")
        elif part == "core" and top not in PURE:
            found.append(f"{module} imports {name}: the core makes no system calls")
        elif top in NOT_IN_THE_DAEMON and part == "daemon":
            found.append(f"{module} imports {name}: a process is started by spawn")
        elif top in FOREIGN and part not in ("adapters", "jobs"):
            found.append(f"{module} imports {name}: only an adapter or a job may")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_in_one_direction(module: str) -> None:
    assert wrong_arrows(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vmguard.core.locks.plan", "import os"),
        ("vmguard.core.locks.plan", "def f():\n    from fcntl import fcntl"),
        ("vmguard.core.locks.plan", "from vmguard.adapters.linux import ofd"),
        ("vmguard.protocol.wire", "from vmguard.daemon.runtime.loop import Loop"),
        ("vmguard.adapters.linux.ofd", "import vmguard.protocol.wire"),
        ("vmguard.hook.claim", "from vmguard import config"),
        ("vmguard.daemon.runtime.loop", "if TYPE_CHECKING:\n    from vmguard.cli import main"),
        ("vmguard.daemon.runtime.loop", "import libvirt"),
        ("vmguard.daemon.runtime.subprocesses", "import subprocess"),
        ("vmguard.cli.check", "from vmguard.hook.claim import claim"),
    ],
)
def test_negative_control_a_wrong_arrow_is_seen(module: str, source: str) -> None:
    assert len(wrong_arrows(module, source)) == 1


def test_the_arrows_themselves_make_no_circle() -> None:
    left = {part: set(known) for part, known in ARROWS.items()}
    while left:
        free = {part for part, known in left.items() if not known & left.keys()}
        assert free, f"these know each other in a circle: {sorted(left)}"
        for part in free:
            del left[part]


def test_every_part_of_the_tree_has_its_arrows() -> None:
    assert {part_of(module) for module in MODULES} == set(ARROWS)


# -- sizes ----------------------------------------------------------------------------------------------------------

FILES = [path for folder in ("vmguard", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]


def functions_longer_than(limit: int, source: str) -> list[str]:
    return [
        f"{node.name}, line {node.lineno}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= limit
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_longer_than_a_person_can_hold(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    assert functions_longer_than(LONGEST_FUNCTION, source) == []


def test_negative_control_a_long_function_is_seen() -> None:
    body = "\n".join(f"    x = {number}" for number in range(LONGEST_FUNCTION))
    assert functions_longer_than(LONGEST_FUNCTION, f"def f():\n{body}") == ["f, line 1: 61 lines"]
