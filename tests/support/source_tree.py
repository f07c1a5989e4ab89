"""The source tree as the structure tests read it: modules, their imports, and the circles among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def module_name(path: Path) -> str:
    words = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def _modules(folder: str) -> dict[str, Path]:
    return {module_name(path): path for path in sorted((ROOT / folder).rglob("*.py"))}


#: every module of vmguard, by its full name
MODULES = _modules("vmguard")
#: every module of the tests
TEST_MODULES = _modules("tests")
#: the packages among the modules of vmguard
PACKAGES = {name: path for name, path in MODULES.items() if path.name == "__init__.py"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield every module named in an import; modules of this tree by their full name.

    An import inside a function, or for the type checker only, is yielded like any other.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES or full in TEST_MODULES else str(node.module)


def part_of(module: str) -> str:
    """Return the part of vmguard that a module belongs to: ``core``, ``daemon``; ``version`` for the package itself."""
    words = module.split(".")
    return words[1] if len(words) > 1 else "version"


def folder_of(module: str) -> str:
    """Return the folder of a module inside its part: ``pin``; the module's own name if it lies in no folder."""
    words = module.split(".")
    return words[2] if len(words) > 2 else "__init__"


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which of the given modules each of them imports. ``sources``: source text by module name."""
    return {
        name: {found for found in imports(ast.parse(text)) if found in sources and found != name}
        for name, text in sources.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return every group of nodes that reach each other: strongly connected components of more than one node."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        reach[start] = seen
    groups = {frozenset({a, *(b for b in reach[a] if a in reach.get(b, ()))}) for a in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)
