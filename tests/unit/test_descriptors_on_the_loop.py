"""Descriptors that come over the socket are never closed by the loop's thread: a close on a share may hang."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.locks.ranges import WHOLE
from vmguard.daemon.api.claims import ClaimRequests
from vmguard.daemon.api.server import Server
from vmguard.daemon.api.sessions import Request, Session
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads
from vmguard.protocol import wire
from vmguard.protocol.messages import ClaimedFileMessage


class Lifecycle:
    """In the place of the daemon's threads: what they are given to close, and what they would let go of."""

    def __init__(self) -> None:
        self.closed: list[int] = []
        self.discarded: list[GuardedFile] = []

    def close(self, fds: Sequence[int]) -> None:
        self.closed += fds

    def announce(self, vm: str) -> None:
        pass

    def discard(self, files: list[GuardedFile]) -> None:
        self.discarded += files


class Place:
    def __init__(self, folder: Path) -> None:
        self.loop, self.lifecycle = Loop(), Lifecycle()
        nobody: Any = self.lifecycle
        claims = ClaimRequests(self.loop, Registry(str(folder)), nobody, nobody, nobody)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(folder / wire.SOCKET_NAME))
        self.listener.listen()
        self.hold = claims.handlers["hold"]
        descriptors, threads = Descriptors(self.loop, nobody), StorageThreads(self.loop)
        Server(self.loop, nobody, claims.handlers, descriptors, threads).listen(self.listener)
        self.disk = folder / "disk"
        self.disk.touch()
        path = str(self.disk)
        self.named = ClaimedFileMessage(path, EXCLUSIVE, DISK, "", path, (1, 2), [WHOLE], 0.0, False).as_json()
        self.peer = wire.connect(str(folder / wire.SOCKET_NAME), 5.0)
        self.loop.turn()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message with a descriptor of the disk, whose only copy is then the daemon's."""
        fd = os.open(self.disk, os.O_RDWR)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, "little"))]
        self.peer._sock.sendmsg([json.dumps(message).encode()], rights)
        os.close(fd)
        self.loop.turn()

    def open_here(self) -> list[int]:
        """The descriptors of the disk that this process has open."""
        links = {int(name): f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")}
        return [fd for fd, link in links.items() if os.path.islink(link) and os.readlink(link) == str(self.disk)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for fd in place.open_here():
        os.close(fd)
    place.loop.close()
    place.listener.close()
    place.peer.close()


@pytest.mark.parametrize(
    "message",
    [
        {"v": 1, "op": "nonsense"},
        {"v": 99, "op": "hold"},
        {"v": 1, "op": "hold", "hypervisor": "libvirt", "name": "web", "uuid": "x", "files": []},
        {"v": 1, "op": "incoming", "hypervisor": "libvirt", "name": "web", "uuid": "x"},
    ],
    ids=["no request", "another version", "a file too few", "not asked for"],
)
def test_one_that_is_not_wanted_is_handed_to_a_thread(place: Place, message: dict[str, Any]) -> None:
    place.send(message)
    assert place.lifecycle.closed == place.open_here() != []


HOLD = {"hypervisor": "libvirt", "name": "web", "uuid": "11111111-2222-3333-4444-555555555555"}


def test_one_that_is_wanted_is_taken_as_it_is(place: Place) -> None:
    """No copy is made of which the loop would have to close one."""
    session, fd = Session(place.peer, 1, -1), os.open(place.disk, os.O_RDWR)
    request = Request(session, {**HOLD, "files": [place.named]}, [fd])
    place.hold(request)
    assert request.fds == []
    assert [file.guard.descriptor for file in session.files] == place.open_here() == [fd]


def test_that_of_a_claim_that_never_came_goes_to_a_thread(place: Place) -> None:
    place.send({"v": 1, "op": "hold", **HOLD, "files": [place.named]})
    assert place.lifecycle.closed == []
    place.peer.close()
    place.loop.turn()
    assert [file.guard.descriptor for file in place.lifecycle.discarded] == place.open_here() != []
