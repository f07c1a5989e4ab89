"""Descriptors between systemd, a daemon and the next one, with real processes."""

from __future__ import annotations

import contextlib
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
from vmguard.adapters.linux import ofd
from vmguard.core.locks.ranges import WHOLE

ROOT = Path(__file__).resolve().parents[2]


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
    environment = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "vmguard.socket:libvirt-x.1f.2", "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert answer.stdout == "[('vmguard.socket', 3, False), ('libvirt-x.1f.2', 4, False)] []\n", answer.stderr


#: a daemon with a keeper, and a descriptor that it stores
DAEMON = """
import fcntl, os, sys
from vmguard.adapters.linux import ofd, systemd
from vmguard.adapters.linux.keeper import keeper
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
keeper.start(sys.argv[1])
fd = os.open(sys.argv[2], os.O_RDWR)
ofd.lock(fd, sys.argv[2], ofd.WRITE, (0, 0))
systemd.store("libvirt-x.1f.2", fd)
print("stored", flush=True)
sys.stdin.read()
"""


def test_the_keeper_has_what_was_stored_until_the_next_daemon_has_come(manager: Manager, tmp_path: Path) -> None:
    lock, disk = tmp_path / "daemon.lock", tmp_path / "disk"
    disk.touch()
    with track(daemon(lock, disk)) as process:
        _, [parcel] = manager.next()
        os.close(parcel)  # as PID 1 does when the unit is stopped
        process.kill()
        process.wait()
    time.sleep(0.5)
    assert locked(disk), "the keeper of a killed daemon has it"
    with next_daemon(lock):
        assert eventually(lambda: not locked(disk))


def test_negative_control_without_a_keeper_it_is_gone_with_the_last_copy(manager: Manager, tmp_path: Path) -> None:
    lock, disk = tmp_path / "daemon.lock", tmp_path / "disk"
    disk.touch()
    with track(daemon(lock, disk, "keeper.start(sys.argv[1])")) as process:
        _, [parcel] = manager.next()
        process.kill()
        process.wait()
    assert locked(disk)
    os.close(parcel)
    assert eventually(lambda: not locked(disk))


def daemon(lock: Path, disk: Path, without: str = "") -> subprocess.Popen[bytes]:
    """A daemon, or what is left of it ``without`` one of its lines, that has stored a locked descriptor."""
    code = DAEMON.replace(f"{without}\n", "") if without else DAEMON
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, str(lock), str(disk)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"stored\n"
    return process


def locked(path: Path) -> bool:
    with path.open("r+b") as stream:
        return ofd.conflict(stream.fileno(), ofd.WRITE, WHOLE) is not None


def test_a_program_starts_without_the_descriptors_of_the_daemon(tmp_path: Path) -> None:
    """Its parent is the daemon, it gets what it is given, and nothing of the rest was ever in it."""
    lock, disk, out = tmp_path / "daemon.lock", tmp_path / "disk", tmp_path / "out"
    disk.touch()
    script = "echo $PPID >&2; ls -l /proc/$$/fd >&2; cat <&%d >&2; exit 7"
    code = (
        "import os, sys\n"
        "from vmguard.adapters.linux.keeper import keeper\n"
        "from vmguard.adapters.linux.spawn import spawn\n"
        "keeper.start(sys.argv[1])\n"
        "disk = os.open(sys.argv[2], os.O_RDWR)\n"
        "out = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT)\n"
        "given, end = os.pipe2(os.O_CLOEXEC); os.write(end, b'given'); os.close(end)\n"
        f"pid = spawn(['/bin/sh', '-c', {script!r} % given], [given], stderr=out)\n"
        "print(os.getpid(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "try:\n"
        "    spawn(['/nowhere/at-all'])\n"
        "except FileNotFoundError:\n"
        "    print('not found')\n"
        "os.kill(keeper._pid, 9)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(spawn(['/bin/sh', '-c', 'exit 3']), 0)[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, str(lock), str(disk), str(out)]
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    first, second, third = answer.stdout.splitlines()
    daemon_pid, status = first.split()
    assert (status, second, third) == ("7", "not found", "3"), answer.stderr
    told = out.read_text()
    assert told.splitlines()[0] == daemon_pid
    assert told.endswith("given")
    assert str(disk) not in told


@contextlib.contextmanager
def next_daemon(lock: Path) -> Iterator[None]:
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); sys.stdin.read()"
    with track(subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE)) as process:
        yield
        process.communicate()
