"""Root's programs start alone: one place starts them, isolated, with an environment of ours (adapters/linux/spawn.py).

What starts a process is looked for in the source; shell and unit files are read for interpreters that are not isolated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source_tree import MODULES, ROOT
from vmguard.adapters.linux import spawn

#: module -> what it may use, and why
STARTERS = {
    "vmguard.adapters.linux.spawn": {"os.posix_spawn", "os.execvp", "os.execve"},
    "vmguard.adapters.linux.programs": {"subprocess"},
    # the admin's way to a storage server, ended with all of its session at a deadline
    "vmguard.adapters.servers.transport": {"subprocess"},
    # a program of its own, which runs on that server and knows nothing of vmguard
    "vmguard.adapters.servers.probe": {"subprocess"},
    # the hookscript that the VM had before ours: the admin's, with what Proxmox gave it
    "vmguard.hook.proxmox": {"os.execv"},
}
#: a process that goes on with our own program
FORKS = {
    "vmguard.adapters.linux.bounded_child",
    "vmguard.hook.claim",
    "vmguard.hook.prefork",
    "vmguard.adapters.servers.probe",
}
#: who may name an interpreter: to start it, or to write its path into a hook
INTERPRETER = {"vmguard.adapters.linux.spawn", "vmguard.cli.hook_script"}
_STARTS = re.compile(r"^os\.(forkpty|posix_spawnp?|spawn\w+|exec\w+|system|popen)$")
_MODULES = {"subprocess", "multiprocessing", "pty", "_posixsubprocess", "runpy"}


def starts(source: str) -> set[str]:
    """Return what in a module starts another program."""
    tree = ast.parse(source)
    found = {text for text in _attributes(tree) if _STARTS.match(text)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in _MODULES}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} if str(node.module).partition(".")[0] in _MODULES else set()
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if _STARTS.match(name)}
    return found


def _attributes(tree: ast.AST) -> Iterator[str]:
    return (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("module", MODULES)
def test_one_place_starts_programs(module: str) -> None:
    source = MODULES[module].read_text()
    assert starts(source) <= STARTERS.get(module, set())
    used = set(_attributes(ast.parse(source)))
    assert "os.fork" not in used or module in FORKS
    assert "sys.executable" not in used or module in INTERPRETER
    assert not used & {"os.environb", "os.putenv"}


def test_all_who_may_start_one_still_do() -> None:
    assert {module for module, path in MODULES.items() if starts(path.read_text())} == set(STARTERS)
    assert all(starts(MODULES[module].read_text()) == allowed for module, allowed in STARTERS.items())


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "def f():\n    from subprocess import run",
        "import os\nos.execvp('virsh', [])",
        "import os\nos.posix_spawnp('virsh', [], {})",
        "from os import system",
        "import os\nos.popen('ps')",
    ],
)
def test_negative_control_a_start_is_seen(source: str) -> None:
    assert len(starts(source)) == 1


# -- what they start with ---------------------------------------------------------------------------------------------


def test_a_program_gets_nothing_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "LD_PRELOAD", "PERL5LIB", "LIBVIRT_DEFAULT_URI", "BASH_ENV"):
        monkeypatch.setenv(name, "/tmp/evil")
    monkeypatch.setenv("PATH", "/tmp/evil")
    monkeypatch.delenv("VMGUARD_FAULT", raising=False)
    assert spawn.environment(VMGUARD_RUN_DIR="/run/x") == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "VMGUARD_RUN_DIR": "/run/x",
    }


def test_our_own_interpreter_is_isolated_and_told_where_vmguard_lies() -> None:
    executable, options, *_, root = spawn.python("vmguard.jobs.drain")
    assert executable.startswith("/")
    assert options == "-IS"
    assert root == str(ROOT)


def test_everybody_who_hands_an_environment_over_has_made_it_there() -> None:
    """``spawn(env=...)`` gets what ``environment`` returned, never os.environ."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "env":
                assert "environ[" not in ast.unparse(node.value), module
                assert "os.environ" not in ast.unparse(node.value), module


# -- shell and unit files ---------------------------------------------------------------------------------------------

#: an interpreter in command position: the variable of the shims and of packaging/layout, or by its name
_INTERPRETER = re.compile(
    r"""(?:^|[;&|({]|\bexec|#!)\s*("?\$\{?(?:VMGUARD_PYTHON|python)\}?"?|[\w/]*python3?)(?=\s|$)(.*)"""
)
SCRIPTS = [
    *sorted(path for folder in ("hooks", "packaging/systemd") for path in (ROOT / folder).iterdir()),
    ROOT / "packaging/layout",
    ROOT / "packaging/vmguard.spec",
    *sorted((ROOT / "packaging/debian").glob("vmguard.*")),
]


def believing(text: str) -> list[str]:
    """Return the lines that start an interpreter which believes its environment and its folder."""
    found = []
    for line in text.splitlines():
        started = _INTERPRETER.search(line)
        if started and (line.startswith("#!") or not line.lstrip().startswith("#")):
            options = [word for word in started[2].split() if word.startswith("-")]
            if not options or "I" not in options[0]:
                found.append(line)
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_script_of_ours_starts_an_interpreter_that_believes(path: Path) -> None:
    assert believing(path.read_text()) == []


def test_the_scripts_that_start_an_interpreter_are_seen_to_do_so() -> None:
    starting = {path.name for path in SCRIPTS if _INTERPRETER.search(path.read_text().replace("\n", " ; "))}
    assert starting >= {"qemu", "vmguard-hookscript", "layout"}


@pytest.mark.parametrize(
    "line",
    [
        "#!/usr/bin/python3",
        "#!$python",
        'exec "$VMGUARD_PYTHON" -S -c code',
        'vmguard() { "$python" -m vmguard "$@"; }',
        "    python3 -m vmguard doctor",
    ],
)
def test_negative_control_an_interpreter_that_believes_is_seen(line: str) -> None:
    assert believing(line) == [line]


def test_the_services_run_the_command_itself_and_hand_python_no_variable() -> None:
    for path in (ROOT / "packaging/systemd").glob("*.service"):
        lines = path.read_text().splitlines()
        assert all(line.startswith("ExecStart=/usr/bin/vmguard ") for line in lines if line.startswith("ExecStart="))
        assert not [line for line in lines if line.startswith("Environment")], "an isolated interpreter ignores them"
