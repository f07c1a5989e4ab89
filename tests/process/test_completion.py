"""What bash, zsh and fish complete, in real shells at a terminal.

The scripts lie in vmguard/cli/scripts. When a command gets an option: ``VMGUARD_REGOLD=1 pytest`` with this file, and
look at ``git diff``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.process import typing_shell
from tests.process.typing_shell import TypingShell
from tests.support.completion_scripts import PLACES, made, whole_parser
from tests.support.guard import REPOSITORY
from vmguard.cli.main import COMMANDS, main

pytestmark = pytest.mark.process

Capture = pytest.CaptureFixture[str]

SHELLS: Mapping[str, Callable[[Path, Path, Mapping[str, str]], TypingShell]] = {
    "bash": typing_shell.bash,
    "zsh": typing_shell.zsh,
}

#: what is typed, and what Tab makes of it
TYPED = {
    "hist": "history",
    "verify": "verify-journal",
    "--json hist": "--json history",
    "--config no.yaml hist": "--config no.yaml history",
    "check m": "check mail",
    "check w": r"check web\ two",
    "plan --name m": "plan --name mail",
    "enable proxmox --vmid m": "enable proxmox --vmid mail",
    "history m": "history mail",
    "doctor m": "doctor mail",
    "doctor a": r"doctor a\ disk.raw",
    "adopt --dr": "adopt --dry-run",
    "adopt mail w": r"adopt mail web\ two",
    "status --no-c": "status --no-color",
    "enable lib": "enable libvirt",
    "doctor --fix i": "doctor --fix identity",
    "doctor --unmute mount.reconn": "doctor --unmute mount.reconnect",
    "config ex": "config example",
    "who a": r"who a\ disk.raw",
    "--config a": r"--config a\ disk.raw",
    "help aud": "help audit",
    "completion fi": "completion fish",
}


def printed(shell: str) -> str:
    command = [sys.executable, "-m", "vmguard", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout


@pytest.mark.parametrize("shell", PLACES)
def test_the_scripts_are_those_of_the_commands(shell: str) -> None:
    if os.environ.get("VMGUARD_REGOLD"):
        PLACES[shell].write_text(made(shell))
    assert PLACES[shell].read_text() == made(shell)
    assert printed(shell) == made(shell)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file in it, and a vmguard that knows two VMs."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "a disk.raw").write_text("")
    program = folder / "bin" / "vmguard"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n[ \"$*\" = 'completion names' ] && printf 'mail\\nweb two\\n'\n")
    program.chmod(0o755)
    return folder


def environment(world: Path) -> dict[str, str]:
    return {"PATH": f"{world}/bin:{os.environ['PATH']}"}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, world: Path) -> Iterator[TypingShell]:
    script = world / "script"
    script.write_text(printed(request.param))
    shell = SHELLS[request.param](script, world, environment(world))
    yield shell
    shell.end()


@pytest.mark.parametrize("typed", TYPED)
def test_tab_completes(shell: TypingShell, typed: str) -> None:
    assert shell.line_of(f"vmguard {typed}\t").rstrip() == f"vmguard {TYPED[typed]}"


def test_negative_control_what_is_not_there_is_not_completed(shell: TypingShell) -> None:
    assert shell.line_of("vmguard xyz\t").rstrip() == "vmguard xyz"
    assert shell.line_of("vmguard check xyz\t").rstrip() == "vmguard check xyz"


def in_fish(script: str, world: Path, line: str) -> list[str]:
    code = f"source {world}/script.fish; complete -C $argv[1]"
    (world / "script.fish").write_text(script)
    command = ["fish", "--no-config", "-c", code, line]
    done = subprocess.run(
        command,
        env={**environment(world), "HOME": str(world), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
        cwd=world,
    )
    assert done.stderr == ""
    return [word.split("\t")[0] for word in done.stdout.splitlines()]


def test_fish_completes_commands_options_choices_and_vms(world: Path) -> None:
    script = printed("fish")
    assert in_fish(script, world, "vmguard hist") == ["history"]
    assert in_fish(script, world, "vmguard check ") == ["mail", "web two"]
    assert in_fish(script, world, "vmguard plan --name m") == ["mail"]
    assert in_fish(script, world, "vmguard adopt --dr") == ["--dry-run"]
    assert in_fish(script, world, "vmguard enable lib") == ["libvirt"]
    assert in_fish(script, world, "vmguard config ex") == ["example"]
    assert in_fish(script, world, "vmguard xyz") == []


def test_every_command_is_offered() -> None:
    offered = whole_parser().format_help().split()
    assert [command.name for command in COMMANDS if command.name not in offered] == []


def test_names_are_those_that_this_hosts_files_know(tmp_path: Path, capsys: Capture) -> None:
    for path in ("libvirt/web.xml", "etc/two words.xml", "etc/notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / "run/vms").mkdir(parents=True)
    (tmp_path / "run/vms/x.json").write_text(json.dumps({"name": "held", "uuid": "u-1", "files": []}))
    folders = {"libvirt": {"run_dir": f"{tmp_path}/libvirt", "config_dir": f"{tmp_path}/etc"}}
    settings = {**folders, "daemon": {"run_dir": f"{tmp_path}/run"}, "proxmox": {"config_dir": f"{tmp_path}/pve"}}
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    assert main(["completion", "names", "--config", str(tmp_path / "c.yaml")]) == 0
    assert capsys.readouterr().out.splitlines() == ["held", "two words", "u-1", "web"]
