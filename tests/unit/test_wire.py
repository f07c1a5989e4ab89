"""The wire protocol: messages, descriptors, and everything a peer may send wrongly."""

import _socket
import contextlib
import errno
import gc
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core import lean_json
from vmguard.errors import DaemonError, DaemonForbidden, WireError
from vmguard.protocol import wire

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_the_lean_codec_says_what_the_ordinary_one_says(value: object) -> None:
    assert json.loads(lean_json.encode(value)) == value
    assert lean_json.decode(json.dumps(value)) == value


@given(st.text(max_size=60))
def test_the_lean_codec_refuses_what_the_ordinary_one_refuses(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            lean_json.decode(text)
    else:
        if text == text.strip(" \t\r\n"):
            assert repr(lean_json.decode(text)) == repr(expected)  # NaN is not equal to itself


def test_descriptors_travel_with_their_message() -> None:
    one, other = wire.pair()
    with open(os.devnull) as stream:
        one.send({"op": "hold"}, [stream.fileno()] * 3)
    received = other.receive()
    assert received is not None
    message, fds = received
    assert message == {"v": 1, "op": "hold"}
    assert len(fds) == 3
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)


def open_descriptors() -> int:
    gc.collect()  # what another test has left behind must not close meanwhile
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"not json", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"v":2,"op":"claim"}', "version 2"),
        (b'{"op":"claim"}', "version None"),
        (b'{"v":"1","op":"claim"}', "version of an unknown form"),
        (b'{"v":' + b"[" * 400 + b"]" * 400 + b"}", "version of an unknown form"),
        (b"", "not JSON"),
    ],
)
def test_a_bad_message_is_named_and_its_descriptors_are_closed(data: bytes, complaint: str) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = wire.Connection(right)
    before = open_descriptors()
    socket.send_fds(left, [data], [0, 1])
    with pytest.raises(WireError, match=complaint):
        connection.receive()
    assert open_descriptors() == before
    left.close()
    right.close()


@pytest.mark.parametrize("problem", [MemoryError(), KeyboardInterrupt()], ids=repr)
def test_descriptors_are_closed_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> None:
    """Also what no message can provoke today: a descriptor that leaks keeps a lock."""

    def fail(text: str) -> object:
        raise problem

    monkeypatch.setattr(wire, "decode", fail)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = open_descriptors()
    socket.send_fds(left, [b"{}"], [0, 1])
    with pytest.raises(type(problem)):
        wire.Connection(right).receive()
    assert open_descriptors() == before
    left.close()
    right.close()


@pytest.mark.parametrize("error", [None, "no", ["no"], 1, {}, {"message": ["no"]}])
def test_a_refusal_in_any_form_is_a_refusal(error: object) -> None:
    one, other = wire.pair()
    other.send({"ok": False, "error": error})
    with pytest.raises(DaemonError):
        one.answer()


def test_a_message_cut_by_the_kernel_is_refused() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.send(b'{"v":1,"x":"' + b"a" * wire.MAX_MESSAGE_BYTES + b'"}')
    with pytest.raises(WireError, match="cut short"):
        wire.Connection(right).receive()


def test_a_message_too_large_is_not_sent() -> None:
    one, _other = wire.pair()
    with pytest.raises(WireError, match="larger"):
        one.send({"x": "a" * wire.MAX_MESSAGE_BYTES})


def test_a_refusal_arrives_with_its_hint() -> None:
    one, other = wire.pair()
    other.send({"ok": False, "error": {"message": "no", "hint": "do this"}})
    with pytest.raises(DaemonError, match="no") as caught:
        one.answer()
    assert caught.value.hint == "do this"


def test_a_daemon_that_goes_away_is_an_error_not_an_answer() -> None:
    one, other = wire.pair()
    other.close()
    with pytest.raises(DaemonError, match="closed"):
        one.answer()


def test_no_socket_and_nobody_listening_are_told_apart(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with pytest.raises(DaemonError, match="no socket"):
        wire.connect(path, 1.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
    with pytest.raises(DaemonError, match="nobody listens"):
        wire.connect(path, 1.0)


def test_a_forbidden_socket_is_told_from_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def __init__(self, *kind: int) -> None:
            """Take whatever a socket takes."""

        def setsockopt(self, *option: object) -> None:
            """Wait for nothing."""

        def connect(self, address: str) -> None:
            raise PermissionError(errno.EACCES, "denied")

        def close(self) -> None:
            """Hold nothing."""

    path = str(tmp_path / "none")
    with pytest.raises(DaemonError, match="not running") as absent:
        wire.connect(path, 1.0)
    assert not isinstance(absent.value, DaemonForbidden)
    monkeypatch.setattr(_socket, "socket", Forbidden)
    with pytest.raises(DaemonForbidden, match="may not talk to the vmguard daemon"):
        wire.connect(path, 1.0)


@pytest.fixture
def full_queue(tmp_path: Path) -> Iterator[socket.socket]:
    """A listener that accepts nothing, and whose queue is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, contextlib.ExitStack() as others:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        others.enter_context(closing(wire.connect(str(tmp_path / "s"), 1.0)))
        yield listener


def test_whoever_finds_the_queue_full_waits_for_a_place(full_queue: socket.socket, tmp_path: Path) -> None:
    def serve() -> None:
        time.sleep(0.1)
        for _ in range(2):
            accepted.append(full_queue.accept()[0])

    accepted: list[socket.socket] = []
    server = threading.Thread(target=serve)
    server.start()
    began = time.monotonic()
    with closing(wire.connect(str(tmp_path / "s"), 5.0)) as connection:
        assert 0.05 < time.monotonic() - began < 4.0
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):  # the wait for a place leaves the later waits as they should be
            connection.answer()
    server.join()
    for one in accepted:
        one.close()


def test_a_queue_that_stays_full_is_said_in_words(full_queue: socket.socket, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DaemonError, match=r"its queue of connections has been full for 0\.2 s"):
        wire.connect(str(tmp_path / "s"), 0.2)
    assert time.monotonic() - began > 0.15


def test_the_peer_is_known_by_its_credentials(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        connection = wire.connect(path, 1.0)
        accepted, _ = listener.accept()
        assert wire.Connection(accepted).peer() == (os.getpid(), os.getuid(), os.getgid())
        accepted.close()
        connection.close()
    assert struct.calcsize("3i") == 12
