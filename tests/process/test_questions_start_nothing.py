"""A question starts no daemon that an admin has stopped: systemd's socket would, at the first connection."""

from __future__ import annotations

import argparse
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import track
from vmguard.cli import metrics, status
from vmguard.cli.host import Answers
from vmguard.cli.output import Output
from vmguard.protocol import wire
from vmguard.query import ask_daemon, running
from vmguard.query.places import Places

_KEEPER = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, 2); print(flush=True); time.sleep(999)"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd listens on in the place of a stopped daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        made.bind(str(tmp_path / wire.SOCKET_NAME))
        made.listen()
        made.setblocking(False)
        yield made


def is_reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_a_stopped_daemon_stays_stopped(listener: socket.socket, tmp_path: Path) -> None:
    where = Places(str(tmp_path), "", "", "")
    (tmp_path / running.LOCK).touch()
    assert ask_daemon.everything(where).problem == "the vmguard daemon does not run"
    assert metrics.look(where, None).problem == "the vmguard daemon does not run"
    assert not is_reached(listener)


def test_negative_control_a_daemon_that_runs_is_asked(listener: socket.socket, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KEEPER, str(tmp_path / running.LOCK)]
    keeper = track(subprocess.Popen(command, stdout=subprocess.PIPE))
    assert keeper.stdout is not None
    keeper.stdout.readline()
    assert "does not answer" in ask_daemon.everything(Places(str(tmp_path), "", "", "")).problem
    assert is_reached(listener)
    keeper.kill()
    keeper.communicate()


def test_one_that_restarts_is_waited_for_a_moment(tmp_path: Path) -> None:
    keeper = track(subprocess.Popen([sys.executable, "-c", _KEEPER, str(tmp_path / running.LOCK)]))
    running.require(str(tmp_path), patience=30.0)
    keeper.kill()
    keeper.wait()


class Pipe(io.StringIO):
    """A pipe whose reader sees what was flushed."""

    seen = ""

    def flush(self) -> None:
        self.seen = self.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
def test_each_picture_is_flushed_and_json_is_a_stream(as_json: bool) -> None:
    pipe = Pipe()
    lengths: list[int] = []

    def sleep(seconds: float) -> None:
        lengths.append(len(pipe.seen))
        if len(lengths) == 3:
            raise KeyboardInterrupt

    args = argparse.Namespace(watch=True, json=as_json, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        status.follow(Answers, args, Output(pipe, pipe, as_json=as_json), sleep)
    assert lengths == sorted(set(lengths))
    assert lengths[0] > 0, "the first is seen before the second"
    if as_json:
        assert [json.loads(line)["status"] for line in pipe.seen.splitlines()] == ["OK"] * 3
    else:
        assert pipe.seen.count("OK: this host guards no VM") == 3
        assert "\033[" not in pipe.seen, "a pipe is no terminal"
