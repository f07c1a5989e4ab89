"""The socket for readers: what it tells, what it refuses, and how little of the loop all readers together get."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_requests import RIGHT
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.sessions import Handler, Request
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import READERS
from vmguard.errors import DaemonError
from vmguard.protocol import readers, wire
from vmguard.protocol.requests import REQUESTS

READING = [name for name, row in REQUESTS.items() if row.reads]
CHANGING = [name for name, row in REQUESTS.items() if not row.reads]
#: more than one message has room for, with characters that JSON escapes
VMS = [{"name": f'"{number}\\ü' * 20, "files": []} for number in range(4000)]


class Closer:
    """In the place of the threads: keeps what they are to do until it is told to do it."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, Callable[[], object], Callable[[object], None]]] = []

    def run(self, device: int, name: str, work: Callable[[], object], done: Callable[[object], None]) -> None:
        self.jobs.append((device, work, done))

    def work(self) -> None:
        for _, work, done in self.jobs:
            done(work())
        self.jobs.clear()


class Host:
    """A server with both sockets. It counts what it serves, and takes its time for ``health``."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = str(folder / "run")
        os.mkdir(self.run_dir)
        self.loop = Loop()
        self.closer = Closer()
        self.served: list[str] = []
        self.busy = 0.0
        nobody: Any = self
        handlers: dict[str, Handler] = dict.fromkeys(REQUESTS, self.serve)
        more: Handler = lambda request: request.session.next_part()  # noqa: E731
        handlers |= {"status": self.vms, "history": self.vms, "more": more, "health": self.slow}
        descriptors = Descriptors(self.loop, nobody, lambda: 10, lambda: 1024)
        self.server = Server(self.loop, nobody, handlers, descriptors, nobody.closer)
        self.listeners = []
        for path, reads_only in ((f"{self.run_dir}/{wire.SOCKET_NAME}", False), (self.path, True)):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
            listener.listen(512)
            self.server.listen(listener, reads_only)
            self.listeners.append(listener)
        self.connections: list[wire.Connection] = []

    @property
    def path(self) -> str:
        return readers.socket_path(self.run_dir)

    def close(self, fds: list[int]) -> None:
        assert fds == []

    def serve(self, request: Request) -> dict[str, Any]:
        self.served.append(request.message["op"])
        return {}

    def vms(self, request: Request) -> None:
        request.session.answer_list(VMS)

    def slow(self, request: Request) -> dict[str, Any]:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        self.busy += 0.01
        return {}

    def connect(self, *requests: dict[str, Any], path: str = "") -> wire.Connection:
        connection = wire.connect(path or self.path, 5.0)
        self.connections.append(connection)
        for request in requests:
            connection.send(request)
        return connection

    def turns(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.loop.call_in(0.002, lambda: None)
            self.loop.turn()

    def ask(self, connection: wire.Connection, request: dict[str, Any]) -> wire.Message:
        connection.send(request)
        return self.answer(connection)

    def answer(self, connection: wire.Connection) -> wire.Message:
        connection.settimeout(0.0)
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            self.loop.call_in(0.002, lambda: None)
            self.loop.turn()
            try:
                return connection.answer()
            except BlockingIOError:
                continue
        raise AssertionError("no answer came")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    for connection in host.connections:
        connection.close()
    host.turns(0.05)
    host.closer.work()
    for listener in host.listeners:
        listener.close()
    host.loop.close()


def is_closed(connection: wire.Connection) -> bool:
    connection.settimeout(0.0)
    try:
        return connection.receive() is None
    except BlockingIOError:
        return False
    except OSError:
        return True


def message(name: str) -> dict[str, Any]:
    return {"op": name, **{key.name: RIGHT[key.name] for key in REQUESTS[name].keys}}


def test_the_requests_are_told_apart_by_what_they_do() -> None:
    assert READING == ["status", "history", "more", "who", "health", "ping"]


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_anything_is_refused_and_nobody_serves_it(host: Host, name: str) -> None:
    connection = host.connect()
    with pytest.raises(DaemonError, match=f"{name}: who may only read what this host guards changes nothing"):
        host.ask(connection, message(name))
    assert host.served == []
    assert host.ask(connection, {"op": "ping"})["ok"] is True


@pytest.mark.parametrize("name", [*CHANGING, "ping", "who"])
def test_control_over_the_other_socket_it_is_served(host: Host, name: str) -> None:
    connection = host.connect(message(name), path=f"{host.run_dir}/{wire.SOCKET_NAME}")
    assert host.answer(connection)["ok"] is True
    assert host.served == [name]


def test_a_list_of_any_length_comes_in_parts_and_without_a_descriptor(host: Host) -> None:
    connection = host.connect()
    first = host.ask(connection, {"op": "status"})
    assert "bytes" not in first
    text, left = first["part"], first["left"]
    while left:
        answer = host.ask(connection, {"op": "more"})
        text, left = text + answer["part"], answer["left"]
    assert json.loads(text) == VMS
    assert len(text) > 3 * wire.MAX_MESSAGE_BYTES


def descriptor_sent(host: Host, tmp_path: Path) -> tuple[wire.Connection, Path]:
    """Have a reader send a descriptor that he then closes himself."""
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    connection = host.connect()
    connection.send({"op": "ping"}, (fd,))
    os.close(fd)
    return connection, path


def open_here(path: Path) -> list[str]:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.islink(link) and os.readlink(link) == str(path)]


def test_a_descriptor_is_never_taken_and_falls_in_a_thread(host: Host, tmp_path: Path) -> None:
    connection, path = descriptor_sent(host, tmp_path)
    host.turns(0.05)
    assert [device for device, _, _ in host.closer.jobs] == [READERS]
    assert open_here(path) == []
    assert not is_closed(connection), "nobody has let it fall yet"
    host.closer.work()
    assert is_closed(connection)


def test_a_message_that_waits_behind_another_brings_none_in_either(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    connection = host.connect({"op": "ping"})
    fd = os.open(path, os.O_RDWR)
    connection.send({"op": "ping"}, (fd,))
    os.close(fd)
    assert host.answer(connection)["ok"] is True
    host.turns(0.05)
    assert len(host.closer.jobs) == 1
    assert open_here(path) == []


def test_readers_whose_connections_hang_keep_out_readers_alone(host: Host, tmp_path: Path) -> None:
    for _ in range(70):
        descriptor_sent(host, tmp_path)
        host.turns(0.003)
    host.turns(0.3)
    assert len(host.closer.jobs) <= 64
    with pytest.raises(AssertionError, match="no answer"):
        host.ask(host.connect(), {"op": "ping"})
    assert host.ask(host.connect(path=f"{host.run_dir}/{wire.SOCKET_NAME}"), {"op": "ping"})["ok"] is True
    host.closer.work()
    host.turns(0.3)
    assert host.ask(host.connect(), {"op": "ping"})["ok"] is True


def test_all_readers_together_get_a_part_of_the_loop(host: Host) -> None:
    flood = [host.connect(*[{"op": "health"}] * 5) for _ in range(40)]
    host.turns(0.1)
    host.busy = 0.0
    began = time.monotonic()
    host.turns(1.0)
    assert 0.0 < host.busy / (time.monotonic() - began) < 0.4
    waiting = time.monotonic()
    assert host.ask(host.connect(path=f"{host.run_dir}/{wire.SOCKET_NAME}"), {"op": "ping"})["ok"] is True
    assert time.monotonic() - waiting < 0.5
    assert flood


def test_each_reader_has_his_turn(host: Host) -> None:
    greedy = host.connect(*[{"op": "health"}] * 10)
    modest = host.connect({"op": "ping"})
    assert host.answer(modest)["ok"] is True
    assert host.busy < 0.05, "not all of the greedy one's came first"
    assert greedy


def test_one_that_does_not_take_its_answers_is_closed(host: Host) -> None:
    lazy = host.connect(*[{"op": "status"}] * 8)
    host.turns(0.5)
    assert len(host.closer.jobs) == 1
    assert lazy


def test_thousands_of_connections_of_readers_keep_no_command_waiting(host: Host) -> None:
    for _ in range(400):
        host.connect()
    host.turns(0.3)
    began = time.monotonic()
    assert host.ask(host.connect(path=f"{host.run_dir}/{wire.SOCKET_NAME}"), {"op": "ping"})["ok"] is True
    assert time.monotonic() - began < 0.5
    assert len(host.loop._selector.get_map()) < 64 + 10
