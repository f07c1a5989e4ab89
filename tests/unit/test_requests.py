"""The table of requests: what the server answers, what the programs send, and every wrong type in every key."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vmguard.cli import man
from vmguard.core.locks.plan import DISK, EXCLUSIVE, PlannedFile
from vmguard.core.sources.domain_xml import parse_domain
from vmguard.daemon.api.claims import ClaimRequests
from vmguard.daemon.api.commands import Commands
from vmguard.daemon.api.questions import Questions
from vmguard.daemon.api.refused_starts import RefusedStarts
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.sessions import Handler, Request
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.errors import DaemonError, WireError
from vmguard.hook import claim
from vmguard.hook.claim_on_share import ClaimedFile, ClaimedFiles
from vmguard.hook.vm_to_claim import VmToClaim
from vmguard.protocol import wire
from vmguard.protocol.adoption import AdoptRequest
from vmguard.protocol.client import Daemon
from vmguard.protocol.messages import ClaimedFileMessage
from vmguard.protocol.requests import NUMBER, REQUESTS, Answer, Key, request_of

UUID = "6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a"
VM = {"hypervisor": "libvirt", "name": "web", "uuid": UUID}
FILE = ClaimedFileMessage("/a", EXCLUSIVE, DISK, "disk vda", "/a", (1, 2), [(0, 0)], 0.0, False).as_json()
#: a right value for each key of the table
RIGHT: dict[str, Any] = {
    **VM,
    "files": [],
    "final": False,
    "warnings": ["w"],
    "incoming": "hyp-a",
    "saved": 1.5,
    "epochs": {"12": 3},
    "problems": ["p"],
    "names": ["web"],
    "all": False,
    "pid": 0,
    "dry_run": True,
    "seconds": 1.5,
    "device": 1,
    "inode": 2,
    "reason": "r",
    "by": "root",
}
#: values of every type that JSON has
ANYTHING: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**70, 1.5, float("nan"), float("inf"), "", "a", "\0", "x" * 60_000, "\ud800"),
    *([], [None], [1], ["a"], [[]], [{}], [{"path": 1}], [FILE], {}, {"a": 1}, {"1": 1}, {"1": "1"}, {"-1": 1}),
    *({"²": 1}, {"9" * 5000: 1}, {"1": True}),
)


# -- the table --------------------------------------------------------------------------------------------------------


def message(name: str) -> dict[str, Any]:
    return {"op": name, **{key.name: RIGHT[key.name] for key in REQUESTS[name].keys}}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_right_request_passes_and_so_does_what_a_newer_program_adds(name: str) -> None:
    assert request_of(message(name)) is REQUESTS[name]
    assert request_of({**message(name), "new": [1], "v": 1}) is REQUESTS[name]


def keys() -> list[tuple[str, Key]]:
    return [(name, key) for name, row in REQUESTS.items() for key in row.keys]


@pytest.mark.parametrize(("name", "key"), keys(), ids=lambda value: getattr(value, "name", value))
def test_a_key_that_is_missing_or_null(name: str, key: Key) -> None:
    without = {known: value for known, value in message(name).items() if known != key.name}
    for request in (without, {**without, key.name: None}):
        if key.required:
            with pytest.raises(WireError, match=f"{name}: the key '{key.name}' is missing"):
                request_of(request)
        else:
            request_of(request)


@pytest.mark.parametrize("name", ["", "Claim", "claim ", 1, None, [], {}, ["claim"]])
def test_an_operation_that_nobody_knows_is_named(name: object) -> None:
    with pytest.raises(WireError, match="unknown operation"):
        request_of({"op": name})


def test_the_manual_describes_every_request() -> None:
    page = man.page("vmguard-hooks")
    for name, row in REQUESTS.items():
        assert f"\\fB{name}\\fR\n" in page
        assert row.description[1:20] in page
        assert all(f"{key.name}: {key.kind.words}" in page for key in row.keys), name


# -- who sends what ---------------------------------------------------------------------------------------------------


class Wiretap:
    """In the place of the hook's connection."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], fds: object = ()) -> None:
        self.sent.append(json.loads(json.dumps(message)))

    def ask(self, message: dict[str, Any], fds: object = ()) -> dict[str, Any]:
        self.send(message)
        return {}


def test_what_the_hook_sends_is_in_the_table(tmp_path: Path) -> None:
    tap: Any = Wiretap()
    vm = VmToClaim("libvirt", parse_domain(f"<domain><name>web</name><uuid>{UUID}</uuid></domain>".encode()))
    claim.begin(vm, tap)
    vm.source = "hyp-a"
    claim.begin(vm, tap)
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    fd = os.open(disk, os.O_RDONLY)
    planned = PlannedFile(str(disk), EXCLUSIVE, DISK, "disk vda")
    files = [ClaimedFile(planned, fd, (1, number), [(0, 0)]) for number in range(wire.FDS_PER_MESSAGE + 1)]
    claim._hand_over(tap, vm.identity(), ClaimedFiles(files, ["a warning"], 0.0))
    os.close(fd)
    assert [request_of(sent).name for sent in tap.sent] == ["claim", "claim", "hold", "hold"]
    assert tap.sent[0] == {"op": "claim", **VM}
    assert tap.sent[1] == {"op": "claim", **VM, "incoming": "hyp-a"}
    assert [sent["final"] for sent in tap.sent[2:]] == [False, True]
    assert (tap.sent[3]["warnings"], tap.sent[3]["incoming"]) == (["a warning"], "")
    for sent in tap.sent[2:]:
        assert all(ClaimedFileMessage.from_json(file).as_json() == file for file in sent["files"])


def test_adopt_says_the_same_as_before() -> None:
    sent = {"names": ["web"], "all": False, "pid": 0, "dry_run": True, "seconds": 5.0}
    read = AdoptRequest.from_message(sent)
    assert (read, read.as_json()) == (AdoptRequest(("web",), dry_run=True, seconds=5.0), sent)
    assert AdoptRequest.from_message({"all": True}) == AdoptRequest(everything=True, seconds=10.0)


def test_a_number_is_one_that_can_be_answered_again() -> None:
    for value in (float("nan"), float("inf"), -float("inf"), 10**400, True, "1"):
        assert not NUMBER.fits(value), value
    assert all(map(NUMBER.fits, (0, -1.5, 2**70)))


# -- the server, with every wrong type in every key -------------------------------------------------------------------


class Anyone:
    """In the place of whatever a handler hands a right request to."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: {} if name in ("health", "as_json") else name == "is_announced"


@contextmanager
def serving(folder: Path, **instead: Handler) -> Iterator[tuple[Loop, str]]:
    """A server, with other handlers for some operations."""
    loop, anyone = Loop(), Anyone()
    parts: Any = (anyone, anyone)
    registry = Registry(str(folder))
    claims = ClaimRequests(loop, registry, anyone, lambda *_: anyone, anyone)  # type: ignore[arg-type]
    descriptors = Descriptors(loop, anyone)  # type: ignore[arg-type]
    questions = Questions(str(folder), registry, parts[0], descriptors, parts[1])
    commands = Commands(parts[1], lambda request, reply: reply([{"adopted": list(request.names)}]))
    handlers = {**claims.handlers, **RefusedStarts(anyone.report).handlers, **questions.handlers, **commands.handlers}
    assert handlers.keys() == REQUESTS.keys()
    path = str(folder / wire.SOCKET_NAME)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    all_handlers = {**handlers, **instead}
    Server(loop, anyone, all_handlers, descriptors, StorageThreads(loop)).listen(listener)  # type: ignore[arg-type]
    yield loop, path
    loop.close()
    listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Loop, str]]:
    with serving(tmp_path) as server:
        yield server


def answers(server: tuple[Loop, str], *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """All that the server sends back. A ``ping`` at the end shows that it goes on, whatever came before."""
    loop, path = server
    connection = wire.connect(path, 5.0)
    loop.turn()
    found: list[dict[str, Any]] = []
    for request in (*requests, {"op": "ping"}):
        connection._sock.send(json.dumps({"v": wire.VERSION, **request}).encode())  # with NaN, too
        loop.turn()
    connection.settimeout(0.0)
    try:
        while (received := connection.receive()) is not None:
            found.append(received[0])
            for fd in received[1]:
                os.close(fd)
    except BlockingIOError:
        pass
    connection.close()
    loop.turn()
    assert found.pop()["ok"] is True
    return found


@pytest.mark.parametrize(("name", "key"), keys(), ids=lambda value: getattr(value, "name", value))
def test_a_wrong_type_is_answered_with_an_error_and_nothing_else_happens(
    server: tuple[Loop, str], name: str, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    for wrong in ANYTHING:
        request = {**message(name), key.name: wrong}
        fits = key.kind.fits(wrong) or (wrong is None and not key.required)
        with caplog.at_level(logging.ERROR):
            found = answers(server, request)
        assert caplog.records == [], (wrong, caplog.text)
        if not fits:
            [answer] = found
            assert answer["ok"] is False
            assert answer["error"]["message"].startswith(f"{name}: "), answer
            assert len(answer["error"]["message"]) < 400
        else:
            assert len(found) <= 1
    assert len(os.listdir("/proc/self/fd")) <= open_before  # an earlier test's may have gone meanwhile


@pytest.mark.parametrize("name", [name for name, row in REQUESTS.items() if row.answer is Answer.NONE])
def test_a_request_without_an_answer_gets_none(server: tuple[Loop, str], name: str) -> None:
    assert answers(server, message(name)) == []


def test_a_fault_of_ours_is_logged_and_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> None:
        raise IndexError

    with serving(tmp_path, who=fail) as server:
        [answer] = answers(server, {"op": "who", "device": 1, "inode": 2})
    assert answer["error"]["message"] == "the vmguard daemon failed at this request"
    assert "please report it as a bug" in caplog.text


# -- the client -------------------------------------------------------------------------------------------------------


def test_the_client_sends_nothing_that_the_table_refuses(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / wire.SOCKET_NAME))
        listener.listen()
        with Daemon(str(tmp_path), 0.05) as daemon:
            with pytest.raises(WireError, match="'names' is 'web', not a list of texts"):
                daemon.adopt({"names": "web"})
            with pytest.raises(DaemonError, match="does not answer"):
                daemon.adopt({"names": ["web"]})
