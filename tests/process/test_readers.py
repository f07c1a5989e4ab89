"""Users who may read what is guarded, by a group, and users who may not: with a real daemon, as those users."""

from __future__ import annotations

import contextlib
import grp
import io
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.other_users import NOBODY, in_a_child, needs_root, open_folder
from tests.unit.test_readers import CHANGING, message
from vmguard.cli import adopt, arm, check, history, maintenance, metrics, past, status, who  # noqa: F401 as that user
from vmguard.cli.main import main
from vmguard.cli.places import of_config
from vmguard.config import load
from vmguard.errors import VmguardError
from vmguard.protocol import readers, wire

pytestmark = [pytest.mark.process, needs_root]

#: a group that every Linux has, and that nobody is in
GROUP = "games"


class Place:
    """A guard with a VM, whose sockets every user may reach as far as their own modes allow."""

    def __init__(self, folder: Path) -> None:
        self.guard = Guard(folder, daemon={"read_group": GROUP})
        self.gid = grp.getgrnam(GROUP).gr_gid
        self.vm = Vm("web", [make_disk(folder / "web.raw")])
        self.socket = readers.socket_path(str(self.guard.run_dir))

    def say(self, *words: str, member: bool = True, user: int = NOBODY) -> tuple[int, str, str]:
        """Run a command as a user, who is in the group or is not; its status, and what it printed."""

        def command() -> str:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(["--config", str(self.guard.config), "--timeout", "2", *words])
            return json.dumps([code, out.getvalue(), err.getvalue()])

        code, out, err = json.loads(in_a_child(command, user, groups=(self.gid,) if member else ()))
        return code, out, err

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request over the socket for readers, as a member of the group."""

        def send() -> str:
            connection = wire.connect(self.socket, 5.0)
            try:
                connection.send(request)
                connection.send({"op": "ping"})
                return json.dumps(connection.answer())
            except VmguardError as problem:
                return json.dumps({"ok": False, "message": problem.message, "hint": problem.hint})

        answer: dict[str, Any] = json.loads(in_a_child(send, NOBODY, groups=(self.gid,)))
        return answer


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with open_folder() as folder:
        place = Place(folder)
        with place.guard, running(place):
            yield place


def test_the_socket_belongs_to_the_group_and_the_folder_beside_it_to_root(place: Place) -> None:
    made = os.stat(place.socket)
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o660, 0, place.gid)
    assert stat.S_IMODE(os.stat(place.guard.run_dir).st_mode) == 0o700


def test_a_member_reads_what_root_reads(place: Place) -> None:
    code, out, err = place.say("status", "--json")
    mine, theirs = json.loads(out), json.loads(place.guard.vmguard("status", "--json").out)
    assert err == ""
    assert mine["daemon"] == "up"
    assert code in (0, 1)
    for key in ("name", "uuid", "state", "pid", "claimed", "processes"):
        assert [vm[key] for vm in mine["vms"]] == [vm[key] for vm in theirs["vms"]] != []
    assert mine["health"] == theirs["health"]


@pytest.mark.parametrize("words", [("check", "web"), ("who", "{disk}"), ("metrics",), ("history",), ("status",)])
def test_every_question_is_answered(place: Place, words: tuple[str, ...]) -> None:
    words = tuple(word.format(disk=place.vm.disks[0]) for word in words)
    code, out, err = place.say(*words)
    root = place.guard.vmguard(*words)
    assert (code, err) == (root.status, root.err)
    for line in root.out.splitlines():
        if not any(word in line for word in ("timestamp", " ago", "open_files", "  open for")):
            assert line in out.splitlines(), out


@pytest.mark.parametrize("name", CHANGING)
def test_no_request_that_changes_anything_is_served(place: Place, name: str) -> None:
    before = place.guard.states(), place.guard.guards("web")
    answer = place.ask(message(name))
    assert answer["ok"] is False
    assert answer["message"].startswith(f"{name}: who may only read what this host guards changes nothing")
    assert (place.guard.states(), place.guard.guards("web")) == before


@pytest.mark.parametrize(
    "words",
    [("maintenance", "--for", "10m", "--reason", "x"), ("arm",), ("adopt", "web"), ("history", "--acknowledge")],
)
def test_a_command_that_changes_something_says_that_it_takes_root(place: Place, words: tuple[str, ...]) -> None:
    code, out, err = place.say(*words)
    assert code == 3, (out, err)
    assert "root" in err
    assert json.loads(place.guard.vmguard("status", "--json").out)["disarmed"] is None


def test_a_stranger_is_told_which_group_may(place: Place) -> None:
    for words in (("status",), ("check", "web"), ("metrics",), ("history",)):
        code, out, err = place.say(*words, member=False)
        assert (code, out) == (3, ""), words
        assert "may not talk to the vmguard daemon" in err
        assert f"only root and the members of group {GROUP} may: usermod -aG {GROUP} USER" in err


def test_a_stranger_cannot_connect(place: Place) -> None:
    said = in_a_child(lambda: wire.connect(place.socket, 2.0), NOBODY)
    assert said.startswith("DaemonForbidden: ")
    assert f"permission denied for {place.socket}" in said


def test_a_member_gets_no_descriptor(place: Place) -> None:
    def count() -> int:
        connection = wire.connect(place.socket, 5.0)
        connection.send({"op": "status"})
        return len(connection.answer_with_fds()[1])

    assert in_a_child(count, NOBODY, groups=(place.gid,)) == "0"


def running(place: Place) -> FakeQemu:
    """Have the VM started."""
    assert place.guard.hook("prepare", place.vm.xml(), place.vm.name).status == 0
    qemu = FakeQemu(place.guard.libvirt_dir, place.vm)
    assert eventually(lambda: place.guard.states() == {"web": "running"})
    return qemu


def test_while_the_daemon_is_down_a_reader_is_told_that_and_no_lie() -> None:
    with open_folder() as folder:
        place = Place(folder)
        with place.guard, running(place):
            place.guard.kill()
            code, out, err = place.say("status")
            assert (code, out) == (3, "")
            assert "does not run, and what it guarded when it was last alive only root may read" in err
            assert os.path.exists(place.socket), "nobody listens on it, and it starts nothing"
            place.guard.start()
            assert place.say("status")[2] == ""


def test_metrics_of_a_reader_remember_the_vms_when_the_daemon_goes() -> None:
    with open_folder() as folder:
        place = Place(folder)
        with place.guard, running(place):
            where = of_config(load([str(place.guard.config)]), 2.0)

            def look() -> str:
                before = metrics.Before(asks_again=True)
                seen = first = metrics.look(where, None, before)
                end = time.monotonic() + 20
                while not seen.problem and time.monotonic() < end:
                    time.sleep(0.1)
                    seen = metrics.look(where, None, before)
                named = [[vm.name for vm in answers.vms] for answers in (first, seen)]
                return json.dumps([first.problem, bool(seen.problem), *named, len(seen.history) >= len(first.history)])

            timer = threading.Timer(1.0, place.guard.kill)
            timer.start()
            said = in_a_child(look, NOBODY, groups=(place.gid,))
            timer.join()
            assert json.loads(said) == ["", True, ["web"], ["web"], True]


def test_without_the_group_root_alone_may_ask() -> None:
    with open_folder() as folder:
        place = Place(folder)
        place.guard.configure(daemon={"read_group": "nobody-has-this-group"})
        with place.guard:
            made = os.stat(place.socket)
            assert (stat.S_IMODE(made.st_mode), made.st_gid) == (0o600, 0)
            code, out, err = place.say("status")
            assert (code, out) == (3, "")
            assert "only root may" in err
            assert "usermod" not in err
