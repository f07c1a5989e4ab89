"""What the tree promises about its files: sizes, package docstrings, README maps, and unit tests without processes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.source_tree import MODULES, PACKAGES, ROOT, TEST_MODULES, imports

LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# -- sizes ----------------------------------------------------------------------------------------------------------

FILES = [*MODULES.values(), *TEST_MODULES.values()]


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


# -- what a package's docstring lists -------------------------------------------------------------------------------

#: a package whose docstring has this word is not described yet
TODO = "TODO-INIT"
#: packages that had a docstring before the rule; once its list is complete, a package may be taken from here
UNLISTED: set[str] = set()


def listed(docstring: str) -> set[str]:
    """Return the modules that a package's docstring lists: ``name``, two spaces or more, and what it is for."""
    return set(re.findall(r"^(\w+) {2,}\S", docstring, re.MULTILINE))


def children(package: str, modules: Mapping[str, Path]) -> set[str]:
    before = f"{package}."
    return {name.removeprefix(before).partition(".")[0] for name in modules if name.startswith(before)}


def wrong_list(package: str, docstring: str, modules: Mapping[str, Path]) -> list[str]:
    there, said = children(package, modules), listed(docstring)
    return [f"{package} does not list {name}" for name in sorted(there - said)] + [
        f"{package} lists {name}, which is not there" for name in sorted(said - there)
    ]


def test_every_package_lists_its_modules_and_nothing_else() -> None:
    docstrings = {name: ast.get_docstring(ast.parse(path.read_text())) or "" for name, path in PACKAGES.items()}
    found = {name: wrong_list(name, text, MODULES) for name, text in docstrings.items()}
    left = sorted(name for name, text in docstrings.items() if TODO in text or (name in UNLISTED and found[name]))
    print(f"{len(left)} of {len(PACKAGES)} packages do not list their modules yet: {', '.join(left)}")
    assert [line for name in found if name not in left for line in found[name]] == []


def test_negative_control_a_missing_and_an_invented_module_are_seen() -> None:
    modules = {f"p{name}": Path() for name in ("", ".one", ".two", ".two.inner")}
    assert wrong_list("p", "A package.\n\none  the first\ntwo  the second", modules) == []
    assert wrong_list("p", "A package.\n\none  the first\nthree   the third", modules) == [
        "p does not list two",
        "p lists three, which is not there",
    ]


# -- what the maps name ---------------------------------------------------------------------------------------------

MAPS = ("vmguard/README.md", "tests/README.md", "packaging/README.md")
#: in backticks, a path below one of the folders at the top; anywhere, a path that ends like a file of ours
_PATHS = (
    re.compile(r"`((?:\.github|config|hooks|packaging|tests|vmguard)/[\w./*-]+)"),
    re.compile(r"(?<![\w/.~:<-])((?:[\w.*-]+/)+[\w.*-]+\.(?:py|sh|md|yaml|toml|service|socket|spec))\b"),
)


def missing_paths(text: str, folder: Path) -> list[str]:
    """Return the paths named in a Markdown text that exist neither below the top of the tree nor below ``folder``."""
    named = sorted({path.rstrip("./") for pattern in _PATHS for path in pattern.findall(text)})
    return [path for path in named if not any(any(base.glob(path)) for base in (ROOT, folder))]


@pytest.mark.parametrize("name", MAPS)
def test_every_path_that_a_map_names_exists(name: str) -> None:
    path = ROOT / name
    if path.exists():  # those that are not written yet name nothing
        assert missing_paths(path.read_text(), path.parent) == []


def test_negative_control_a_path_that_does_not_exist_is_seen() -> None:
    text = "see vmguard/errors.py, core/locks/plan.py and vmguard/gone.py; `tests/run --fast`, `tests/nothing`, `a/b`"
    assert missing_paths(text, ROOT / "vmguard") == ["tests/nothing", "vmguard/gone.py"]


# -- tests/unit starts no process -----------------------------------------------------------------------------------

#: modules and calls that start a process. tests/unit/conftest.py also holds it while the tests run.
_STARTERS = {"subprocess", "multiprocessing", "pty"}
_CALLS = re.compile(r"^(os\.(fork|forkpty|posix_spawnp?|spawn\w+|exec\w+|system|popen)|spawn\.spawn)$")


def process_starts(source: str) -> Iterator[str]:
    """Yield what in a test's source starts a process, or marks it as a test that does."""
    tree = ast.parse(source)
    for name in imports(tree):
        if name.partition(".")[0] in _STARTERS:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if _CALLS.match(text):
                yield f"line {node.lineno}: {text}"
            elif text == "pytest.mark.process":
                yield f"line {node.lineno}: is marked process"
        elif isinstance(node, ast.ImportFrom):
            names = [f"{str(node.module).rpartition('.')[2]}.{alias.name}" for alias in node.names]
            yield from (f"imports {name}" for name in names if _CALLS.match(name))


def starts_with_helpers(module: str, sources: Mapping[str, str]) -> list[str]:
    """Return what starts a process in a test and in every module of the tests that it imports, directly or not."""
    found, todo, seen = [], [module], {module}
    while todo:
        name = todo.pop()
        found += [f"{name} {what}" for what in process_starts(sources[name])]
        new = {other for other in imports(ast.parse(sources[name])) if other in sources} - seen
        seen |= new
        todo += new
    return found


UNIT = [name for name in TEST_MODULES if name.startswith("tests.unit.")]


def test_nothing_in_tests_unit_starts_a_process() -> None:
    sources = {name: path.read_text() for name, path in TEST_MODULES.items()}
    assert [line for name in UNIT for line in starts_with_helpers(name, sources)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "def test_x():\n    from multiprocessing import Process",
        "import os\ndef test_x():\n    os.fork()",
        "import os\nos.posix_spawn('/bin/sh', [], {})",
        "from os import execv",
        "@pytest.mark.process\ndef test_x(): pass",
        "pytestmark = pytest.mark.process",
        "from vmguard.adapters.linux.spawn import spawn",
        "from vmguard.adapters.linux import spawn\nspawn.spawn(['/bin/sh'])",
    ],
)
def test_negative_control_a_start_of_a_process_is_seen(source: str) -> None:
    assert len(list(process_starts(source))) == 1


def test_negative_control_a_helper_that_starts_a_process_is_seen() -> None:
    sources = {
        "tests.unit.test_x": "from tests.support.disk_images import image",
        "tests.support.disk_images": "def f():\n    import tests.support.guard",
        "tests.support.guard": "import subprocess",
        "tests.support.namespaces": "import subprocess",
    }
    assert starts_with_helpers("tests.unit.test_x", sources) == ["tests.support.guard imports subprocess"]
