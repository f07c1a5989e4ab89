"""A real daemon and requests that are wrong: each is answered, none of them changes or stops anything."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.unit.test_requests import ANYTHING, FILE, keys, message
from vmguard.protocol import wire
from vmguard.protocol.requests import REQUESTS, Answer

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with Guard(tmp_path_factory.mktemp("requests"), unguarded={"take_up": "no"}) as guard:
        yield guard


def ask(guard: Guard, request: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
    """The answer to a request; of one that gets none, the answer to the ``ping`` behind it."""
    connection = wire.connect(str(guard.run_dir / wire.SOCKET_NAME), 10.0)
    try:
        if fds:
            connection.send(request, fds)
        else:
            connection._sock.send(json.dumps({"v": wire.VERSION, **request}).encode())  # with NaN, too
        connection.send({"op": "ping"})
        received = connection.receive()
        assert received is not None
        for fd in received[1]:
            os.close(fd)
        return received[0]
    finally:
        connection.close()


@pytest.mark.parametrize("name", [name for name, row in REQUESTS.items() if row.keys and name != "adopt"])
def test_whatever_a_request_holds_the_daemon_answers_and_goes_on(guard: Guard, name: str) -> None:
    for known, key in keys():
        if known != name:
            continue
        for value in ANYTHING:
            # Without its descriptor a file is refused: a claim of no files at all would stand as long as this process.
            files = {"files": [FILE]} if name == "hold" else {}
            answer = ask(guard, {**message(name), **files, key.name: value})
            fits = key.kind.fits(value) or (value is None and not key.required)
            assert answer["ok"] is False or fits, (key.name, value, answer)
    assert ask(guard, {"op": "arm", "by": "test"})["ok"] is True
    assert guard.status() == []
    assert "Traceback" not in guard.log
    assert "please report it as a bug" not in guard.log


def test_descriptors_of_a_refused_request_are_closed(guard: Guard, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw")
    fd = os.open(disk, os.O_RDWR)
    for request in (
        {"op": "ping"},
        {"op": "nonsense"},
        {**message("hold"), "files": 1},
        {**message("hold"), "files": [{}]},
        {**message("hold"), "final": "yes"},
    ):
        ask(guard, request, (fd, fd))
    os.close(fd)
    assert eventually(lambda: not held(guard, disk))


def held(guard: Guard, disk: Path) -> list[str]:
    """The daemon's descriptors of this disk; it opens others of its own at any time."""
    fds = f"/proc/{guard.pid}/fd"
    found = []
    for number in os.listdir(fds):
        with contextlib.suppress(FileNotFoundError):  # closed since
            if os.readlink(f"{fds}/{number}") == str(disk):
                found.append(number)
    return found


def test_requests_without_an_answer_get_none(guard: Guard) -> None:
    for name, row in REQUESTS.items():
        if row.answer is Answer.NONE:
            assert "since" in ask(guard, {"op": name, "reason": "for a test"}), name


def test_a_vm_that_is_claimed_stays_so(guard: Guard, tmp_path: Path) -> None:
    vm = Vm("web", [make_disk(tmp_path / "disk.raw")])
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    for request in ({"op": "commit"}, {"op": "recorded", "epochs": {"1": "x"}}, message("hold"), message("claim")):
        ask(guard, request)
    assert guard.states() == {"web": "claimed"}
    assert held(guard, vm.disks[0])
    assert guard.hook("release", vm.xml(), vm.name).status == 0
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
