"""Root stands in a folder that somebody else has filled, with variables that lead there: nothing of it ever runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import REPOSITORY, Guard, Vm, eventually, make_disk
from vmguard.cli.hook_script import text as hook_text

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="it is about what root runs"),
]

_NOBODY = 65534
#: programs that vmguard runs somewhere, and an interpreter
_PROGRAMS = ("virsh", "libvirtd", "virtqemud", "qm", "systemctl", "journalctl", "dpkg-query", "ps", "python3", "sh")
#: modules that an interpreter of ours loads, the packages among them as vmguard itself
_MODULES = ("json", "yaml", "subprocess", "sitecustomize", "usercustomize", "libvirt", "vmguard", "startup")


class Trap:
    """A stranger's folder. Whatever of it runs writes its name down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._sprung = folder / "trap", folder / "sprung"
        self.folder.mkdir()
        for name in _MODULES:
            self._module(f"{name}.py" if name != "vmguard" else "vmguard/__init__.py")
        self._module("vmguard/__main__.py")
        for name in _PROGRAMS:
            path = self.folder / name
            path.write_text(f"#!/bin/dash\necho {name} >> {self._sprung}\n")
            path.chmod(0o755)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY)

    def _module(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"with open({str(self._sprung)!r}, 'a') as f:\n    f.write('{name}\\n')\n")

    @property
    def sprung(self) -> list[str]:
        return self._sprung.read_text().split() if self._sprung.exists() else []

    def environment(self) -> dict[str, str]:
        here = str(self.folder)
        return {
            "PATH": f"{here}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": here,
            "PYTHONPATH": here,
            "PYTHONUSERBASE": here,
            "PYTHONSTARTUP": f"{here}/startup.py",
        }

    def run(self, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, input=stdin, capture_output=True, env=self.environment(), cwd=self.folder, check=False
        )


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """/usr/bin/vmguard as the packages have it, for the interpreter of these tests."""
    root = tmp_path_factory.mktemp("root")
    subprocess.run([REPOSITORY / "packaging/layout", root, "/lib", sys.executable], check=True)
    return str(root / "usr/bin/vmguard")


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path)


@pytest.mark.parametrize("words", [("report", "--output", "here.tar.gz"), ("doctor",), ("doctor", "--json")])
def test_a_command_runs_nothing_of_the_folder_that_root_stands_in(
    trap: Trap, command: str, guard: Guard, words: tuple[str, ...]
) -> None:
    done = trap.run(command, "--config", str(guard.config), *words)
    assert trap.sprung == []
    assert done.returncode in (0, 1, 2), done.stderr
    assert (trap.folder / "here.tar.gz").exists() == ("report" in words)


def test_the_hook_runs_nothing_of_it(trap: Trap, guard: Guard) -> None:
    vm = Vm("web", [make_disk(guard.folder / "web.raw")])
    done = trap.run(str(guard.hook_file), "web", "prepare", "begin", "-", stdin=vm.xml())
    assert done.returncode == 1, "there is no daemon"
    assert trap.sprung == []


def test_neither_does_proxmoxs_hookscript(trap: Trap, tmp_path: Path) -> None:
    script = tmp_path / "vmguard-hookscript"
    script.write_text(hook_text("proxmox"))
    script.chmod(0o755)
    assert trap.run(str(script), "100", "pre-start").returncode == 1, "there is no such VM"
    assert trap.sprung == []


class InTheTrap(Guard):
    """Its daemon is started by hand, by a person who stands in the trap."""

    def __init__(self, folder: Path, command: str, trap: Trap) -> None:
        super().__init__(folder, notify={"command": f"echo told >> {folder}/told", "level": "info"})
        self.environment = {**trap.environment(), "PWD": str(trap.folder)}
        self._command, self._trap = command, trap

    def daemon_command(self) -> list[str]:
        stand = ["/bin/sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", str(self._trap.folder)]
        return [*stand, self._command, "--config", str(self.config), "daemon"]


@pytest.fixture
def daemon(tmp_path: Path, command: str, trap: Trap) -> Iterator[InTheTrap]:
    daemon = InTheTrap(tmp_path, command, trap)
    with daemon:
        yield daemon


def test_neither_the_daemon_nor_its_children_run_anything_of_it(daemon: InTheTrap, trap: Trap) -> None:
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
    vm = Vm("web", [make_disk(daemon.folder / "web.raw")])
    assert daemon.hook("prepare", vm.xml()).status == 0
    daemon.hook("release", vm.xml())
    assert eventually(lambda: daemon.nothing_left(*vm.disks)), "drain and owner records are children"
    daemon.vmguard("disarm", "--for", "1m", "--reason", "x")
    assert eventually((daemon.folder / "told").exists), "a command of the admin's, too"
    assert trap.sprung == []


# -- the trap is one --------------------------------------------------------------------------------------------------


def test_negative_control_an_interpreter_that_believes_springs_the_trap(trap: Trap) -> None:
    trap.run(sys.executable, "-c", "import json")
    assert {"sitecustomize.py", "json.py"} <= set(trap.sprung)


def test_negative_control_python_m_vmguard_is_the_strangers(trap: Trap) -> None:
    """What the manual says of it."""
    subprocess.run([sys.executable, "-m", "vmguard", "--version"], cwd=trap.folder, env={}, check=False)
    assert "vmguard/__main__.py" in trap.sprung


def test_negative_control_a_program_by_its_name_is_the_strangers(trap: Trap) -> None:
    trap.run("/bin/dash", "-c", "journalctl")
    assert trap.sprung == ["journalctl"]
