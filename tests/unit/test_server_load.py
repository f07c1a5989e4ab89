"""The daemon's socket under load: nobody is refused, nobody keeps another one waiting, claims come first."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmguard.core.watchdog.events import Report
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.sessions import Request
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.errors import DaemonError
from vmguard.protocol import wire


class Full(socket.socket):
    """A listener that has no descriptor for a connection, for so many times."""

    failures = 0
    asked = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.failures > 0:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


class Host:
    """A server that answers ``ping`` and takes its time for ``status``, and never answers a ``claim``."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.loop = Loop()
        self.path = str(folder / wire.SOCKET_NAME)
        self.used = 10
        self.reports: list[Report] = []
        self.served: list[str] = []
        self.descriptors = Descriptors(self.loop, self.reports.append, lambda: self.used, lambda: limit)
        handlers = {"ping": self.ping, "status": self.slow, "claim": self.claim, "standby": self.claim, "who": self.no}
        nobody: Any = self  # in place of the lifecycle: it closes descriptors that nobody wants
        self.server = Server(self.loop, nobody, handlers, self.descriptors, StorageThreads(self.loop))
        self.listener = Full(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.server.listen(self.listener)
        self.connections: list[wire.Connection] = []

    def close(self, fds: list[int]) -> None:
        assert fds == []

    def ping(self, request: Request) -> dict[str, Any]:
        return {}

    def slow(self, request: Request) -> dict[str, Any]:
        time.sleep(0.01)
        self.served.append(request.message["by"])
        return {}

    def claim(self, request: Request) -> None:
        request.session.stays = True

    def no(self, request: Request) -> dict[str, Any]:
        raise OSError(errno.EMFILE, "Too many open files")

    def connect(self, *requests: dict[str, Any]) -> wire.Connection:
        connection = wire.connect(self.path, 5.0)
        self.connections.append(connection)
        for request in requests:
            connection.send(request)
        return connection

    def turns(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.loop.call_in(0.005, lambda: None)
            self.loop.turn()

    def until(self, wanted: Callable[[], bool]) -> None:
        end = time.monotonic() + 5.0
        while not wanted():
            assert time.monotonic() < end
            self.loop.call_in(0.005, lambda: None)
            self.loop.turn()

    def ask(self) -> wire.Message:
        """Connect, ask, and close, as a command does."""
        connection = self.connect({"op": "ping"})
        connection.settimeout(0.0)
        found: list[wire.Message] = []

        def answered() -> bool:
            try:
                found.append(connection.answer())
            except BlockingIOError:
                return False
            return True

        self.until(answered)
        connection.close()
        return found[0]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path, limit=128)
    yield host
    for connection in host.connections:
        connection.close()
    host.turns(0.01)
    host.listener.close()
    host.loop.close()


def is_open(connection: wire.Connection) -> bool:
    connection.settimeout(0.0)
    try:
        return connection.receive() is not None
    except BlockingIOError:
        return True


VM = {"hypervisor": "libvirt", "name": "web", "uuid": "00000000-0000-0000-0000-000000000001"}


def test_silent_connections_keep_nobody_out(host: Host) -> None:
    most = host.descriptors.most_connections()
    assert most == 16
    silent = [host.connect() for _ in range(3 * most)]
    assert host.ask()["ok"] is True
    assert sum(map(is_open, silent)) <= most
    assert not is_open(silent[0]), "the one that was silent longest goes first"


def test_who_is_heard_of_or_waits_for_an_answer_is_not_closed(host: Host) -> None:
    hooks = [host.connect({"op": "claim", **VM}), host.connect({"op": "standby"})]
    host.turns(0.3)
    silent = [host.connect() for _ in range(40)]
    assert host.ask()["ok"] is True
    assert all(map(is_open, hooks))
    assert not all(map(is_open, silent))


def test_of_what_is_left_for_claims_the_others_get_little(host: Host) -> None:
    host.used = 120
    host.descriptors.start()
    assert host.descriptors.scarce
    assert host.descriptors.most_connections() == 16
    host.used = 10
    host.descriptors.start()
    assert not host.descriptors.scarce


def test_an_alarm_is_raised_before_the_last_descriptor_is_taken(host: Host) -> None:
    for used in (90, 97, 100, 127, 90, 80, 97):
        host.used = used
        host.descriptors.start()
    assert [(str(report.level), report.code) for report in host.reports] == [
        ("warning", "daemon.descriptors"),
        ("info", "daemon.descriptors"),
        ("warning", "daemon.descriptors"),
    ]
    assert host.reports[0].sentence == (
        "the vmguard daemon has 97 of 128 file descriptors in use; without one no VM can be started: "
        "raise LimitNOFILE of its unit"
    )


def test_no_descriptor_for_a_connection_makes_it_wait_and_does_not_spin(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.listener.failures = 4
    began = time.monotonic()
    assert host.ask()["ok"] is True
    assert time.monotonic() - began > 4 * 0.015
    assert host.listener.asked < 10
    assert caplog.text.count("new connections have to wait: Too many open files") == 1


def test_a_request_that_lacks_a_descriptor_is_answered_in_words(host: Host) -> None:
    connection = host.connect({"op": "who"})
    host.turns(0.02)
    with pytest.raises(DaemonError, match="has 10 of 128 file descriptors in use, and needs one more") as caught:
        connection.answer()
    assert "LimitNOFILE" in caught.value.hint


def test_one_peer_with_many_questions_does_not_keep_others_waiting(host: Host) -> None:
    flood = host.connect(*[{"op": "status", "by": "flood"}] * 20)
    other = host.connect({"op": "status", "by": "other"})
    host.until(lambda: "other" in host.served)
    assert len(host.served) <= 3
    host.until(lambda: len(host.served) == 21)
    assert is_open(flood)
    assert is_open(other)


def test_a_limit_of_descriptors_is_the_process_s_own() -> None:
    with open(os.devnull):
        found = Descriptors(Loop(), lambda report: None)
        assert 0 < found.used < found.limit
        assert found.as_json() == {"used": found.used, "limit": found.limit, "alarm": False}
