"""What each command shows on a terminal of 80 columns and 24 lines, in each state that a host can be in.

No line is broken by the terminal itself, no table falls apart, and what matters most stands on the first screen.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.test_states_and_places import NAMES, OK, ROWS
from tests.support.terminal import COLUMNS, LINES, Terminal
from tests.support.told_host import ToldHost
from vmguard.cli.main import COMMANDS, main
from vmguard.cli.wrapping import columns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about what root sees, and others not")

DOMAIN = """\
<domain type='kvm'><name>web</name><uuid>0d8a2c0c-76ab-5d58-9a63-3b9e4f4b2f05</uuid><os><type>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{disk}.iso'/><target dev='sda'/>
<readonly/></disk><disk type='block' device='disk'><source dev='/dev/vg0/swap'/><target dev='vdb'/></disk>
</devices></domain>
"""

#: the words of a command, and whether its first screen must have all of it
SCREENS = {
    "alone": ([], True),
    "check": (["check", "web"], True),
    "check -v": (["check", "web", "-v"], True),
    "status": (["status"], True),
    "status -v": (["status", "-v"], True),
    "who": (["who", "{disk}"], True),
    "history": (["history"], False),
    "timing": (["timing"], False),
    "timing of a lease": (["timing", "--lease", "90"], True),
    "config show": (["config", "show"], False),
    "verify-journal": (["verify-journal"], True),
    "doctor": (["doctor", "--no-proof"], False),
    "plan": (["plan", "--domain-xml", "{folder}/web.xml"], True),
    "adopt": (["adopt", "--all"], True),
    "config check": (["config", "check"], True),
}
#: these look at every process of the machine that the tests run on: they are shown in a few states only
_SLOW, _SLOW_IN = ("who", "doctor"), ("running", "frozen", "not root")
#: of a terminal: what may be wider than it, because a person copies it
_ONE_WORD = 1


def show(host: ToldHost, words: list[str], user: int = 0) -> list[str]:
    """Return the screen of a command, its complaints among the rest."""
    os.seteuid(user)
    try:
        with Terminal() as terminal:
            with contextlib.redirect_stdout(terminal.stream), contextlib.redirect_stderr(terminal.stream):
                main(["--config", str(host.folder / "c.yaml"), *words])
            terminal.stream.flush()
    finally:
        os.seteuid(0)
    return terminal.lines


class Screens:
    """A state, and the screen of each command in it."""

    def __init__(self, state: str, host: ToldHost) -> None:
        self.state = state
        self.row = ROWS[state]
        Path(f"{host.disk}.iso").write_bytes(bytes(4096))
        host.folder.joinpath("web.xml").write_text(DOMAIN.format(disk=host.disk))
        values = {"disk": host.disk, "folder": host.folder}
        self.screens = {
            name: show(host, [word.format(**values) for word in words], self.row.user)
            for name, (words, _) in SCREENS.items()
            if name not in _SLOW or state in _SLOW_IN
        }

    def __getitem__(self, name: str) -> list[str]:
        """Return a screen; that of ``vmguard`` alone where this one is not shown in this state."""
        return self.screens.get(name, self.screens["alone"])


@pytest.fixture(params=ROWS, scope="module")
def screens(request: pytest.FixtureRequest) -> Iterator[Screens]:
    row = ROWS[request.param]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        patch.delenv("COLUMNS", raising=False)
        patch.setenv("TERM", "xterm")
        host = ToldHost(Path(folder), patch, row.problems)
        try:
            row.make(host)
            yield Screens(request.param, host)
        finally:
            host.end()


def too_wide(lines: list[str]) -> list[str]:
    return [line for line in lines if columns(line) > COLUMNS and len(line.split()) > _ONE_WORD]


@pytest.mark.parametrize("name", SCREENS)
def test_no_line_is_wider_than_the_terminal(screens: Screens, name: str) -> None:
    assert screens[name], "nothing was printed"
    assert too_wide(screens[name]) == []


@pytest.mark.parametrize("name", [name for name, (_, whole) in SCREENS.items() if whole])
def test_what_is_about_one_vm_fits_on_one_screen(screens: Screens, name: str) -> None:
    assert len(screens[name]) < LINES, "\n".join(screens[name])


@pytest.mark.parametrize("name", ["alone", "check", "status", "history", "timing", "doctor"])
def test_the_health_of_the_host_stands_at_the_top(screens: Screens, name: str) -> None:
    if screens.row.user or (screens.state == "fenced an hour ago" and name == "check"):
        return
    assert screens[name][0].startswith(f"{NAMES[screens.row.severity]}: ")


@pytest.mark.parametrize("name", ["alone", "check", "status"])
def test_the_next_step_is_on_the_first_screen(screens: Screens, name: str) -> None:
    if screens.row.severity == OK or (screens.state == "fenced an hour ago" and name == "check"):
        return
    assert any(line.startswith("do now: ") for line in screens[name][: LINES - 1])


@pytest.mark.parametrize("name", ["", *(command.name for command in COMMANDS)])
def test_the_help_of_each_command_fits_and_begins_with_what_to_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with Terminal() as terminal:
        monkeypatch.setattr("sys.stdout", terminal.stream)
        assert main([*name.split(), "--help"]) == 0
        terminal.stream.flush()
    assert [line for line in terminal.lines if columns(line) > COLUMNS] == []
    assert terminal.lines[0].startswith(f"usage: vmguard {name}".rstrip())
    usage = " ".join(itertools.takewhile(str.strip, terminal.lines))
    assert not re.search(r"\[-h\]|\{", usage), "it is about what to type"


def test_negative_control_a_line_that_is_too_wide_is_seen() -> None:
    assert too_wide(["word " * 17]) == ["word " * 17]
    assert too_wide(["/" + "x" * 90]) == []
