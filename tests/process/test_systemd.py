"""Descriptors between systemd, a daemon and the next one, with real processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import eventually
from tests.support.processes import track
from tests.support.service_manager import Manager, open_manager
from vmguard.adapters.linux import systemd


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    yield from open_manager(tmp_path, monkeypatch)


def test_passed_descriptors_are_named_and_not_inherited_further() -> None:
    code = (
        "import os; from vmguard.adapters.linux import systemd; os.environ['LISTEN_PID'] = str(os.getpid());"
        "null = os.open('/dev/null', 0); other = os.dup(null);"
        "[os.dup2(other, number) for number in (3, 4) if number != other];"
        "print([(name, fd, os.get_inheritable(fd)) for name, fd in systemd.listen_fds()], systemd.listen_fds())"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "vmguard.socket:libvirt-x.1f.2", "PYTHONPATH": root}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert answer.stdout == "[('vmguard.socket', 3, False), ('libvirt-x.1f.2', 4, False)] []\n", answer.stderr


def test_what_lingers_goes_when_the_next_daemon_has_come(manager: Manager, tmp_path: Path) -> None:
    lock, disk = tmp_path / "daemon.lock", tmp_path / "disk"
    with lock.open("w") as ours, disk.open("w+b") as file:
        fcntl.lockf(ours, fcntl.LOCK_EX)  # we are the daemon that stops
        systemd.linger(str(lock), [file.fileno()])
        assert eventually(lambda: len(users(disk)) == 2)
        time.sleep(0.5)
        assert len(users(disk)) == 2, "our own lock is not the next daemon's"
    assert len(users(disk)) == 1
    with next_daemon(lock):
        assert eventually(lambda: users(disk) == set())
    os.wait()


@contextlib.contextmanager
def next_daemon(lock: Path) -> Iterator[None]:
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); sys.stdin.read()"
    with track(subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE)) as process:
        yield
        process.communicate()


def users(path: Path) -> set[str]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == str(path):
                    found.add(pid)
    return found
