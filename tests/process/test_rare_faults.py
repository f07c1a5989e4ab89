"""What befalls a host now and then: a full /run, no memory, a log that nobody reads, /proc with hidepid.

Of each: a VM that runs is not harmed, a start that cannot be guarded is refused in words, and it is over when the fault
is.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_qemu import FakeQemu
from tests.support.guard import REPOSITORY, Answer, Guard, Vm, eventually, locks_on, make_disk
from tests.support.namespaces import Space
from tests.support.processes import Supervised
from vmguard.errors import DaemonError, WireError
from vmguard.protocol import wire

pytestmark = pytest.mark.process


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm("web", [make_disk(tmp_path / "web.raw")])


def new_vm(folder: Path, name: str = "new") -> Vm:
    return Vm(name, [make_disk(folder / f"{name}.raw")])


def claim(guard: Guard, vm: Vm) -> Answer:
    return guard.hook("prepare", vm.xml(), vm.name)


def running(guard: Guard, vm: Vm) -> FakeQemu:
    answer = claim(guard, vm)
    assert answer.status == 0, answer.err
    assert answer.err == ""
    qemu = FakeQemu(guard.libvirt_dir, vm)
    assert eventually(lambda: is_pinned(guard, vm), 10), guard.log
    return qemu


def is_pinned(guard: Guard, vm: Vm) -> bool:
    return guard.guards(vm.name) == {str(disk): "pinned" for disk in vm.disks}


def process_state(qemu: FakeQemu) -> str:
    return Path(f"/proc/{qemu.pid}/stat").read_text().rpartition(") ")[2][0]


# -- /run is full ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_run() -> Iterator[Guard]:
    """A daemon whose run directory is a small file system of its own."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,  # the name of a socket has 107 letters at most
        Space(f"mkdir {folder}/run; mount -t tmpfs -o size=256k,mode=700 none {folder}/run") as space,
    ):
        run_dir = Path(folder) / "run"
        guard = Guard(Path(folder), prefix=space.prefix)
        guard.run_dir = space.root / str(run_dir).lstrip("/")
        with guard:
            yield guard


def test_a_full_run_directory_refuses_starts_and_harms_no_vm_that_runs(
    small_run: Guard, vm: Vm, tmp_path: Path
) -> None:
    guard, other = small_run, new_vm(tmp_path)
    with running(guard, vm) as qemu:
        ballast = guard.run_dir / "ballast"
        fill(ballast)
        refused = claim(guard, other)
        assert refused.status == 1
        assert "the state of VM 'new' cannot be written" in refused.err
        assert "free space in /run" in refused.err
        assert eventually(lambda: not locks_on(*other.disks))
        qemu.open(added := make_disk(tmp_path / "added.raw"))
        assert eventually(lambda: guard.guards("web").get(str(added)) == "pinned", 10)
        qemu.close(added)
        time.sleep(0.5)
        assert guard.guards("web")[str(vm.disks[0])] == "pinned"
        assert process_state(qemu) == "S"
        guard.kill()  # the daemon that comes next finds the older state, and the VM in it
        guard.start()
        assert eventually(lambda: guard.guards("web").get(str(vm.disks[0])) == "pinned", 10)
        ballast.unlink()
        assert claim(guard, other).status == 0
        assert guard.hook("release", other.xml(), "new").status == 0
    assert eventually(lambda: guard.nothing_left(*vm.disks, *other.disks), 20), guard.log[-2500:]


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


# -- no memory ------------------------------------------------------------------------------------------------------


def test_a_daemon_without_memory_refuses_what_it_cannot_do_and_keeps_what_it_has(tmp_path: Path, vm: Vm) -> None:
    with Guard(tmp_path) as guard, running(guard, vm) as qemu:
        pid, limits = guard.pid, resource.prlimit(guard.pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (1, limits[1]))
        try:
            for _ in range(3):
                ask_too_much(guard)
            time.sleep(1.5)
        finally:
            resource.prlimit(pid, resource.RLIMIT_AS, limits)
        assert eventually(lambda: is_pinned(guard, vm), 5)
        assert guard.pid == pid
        assert process_state(qemu) == "S"
        assert cpu_share(pid) < 0.5
        assert claim(guard, new_vm(tmp_path)).status == 0


def ask_too_much(guard: Guard) -> None:
    """Send a request that takes some memory; whether it is answered or the connection is closed, it comes to an end."""
    try:
        connection = wire.connect(str(guard.run_dir / wire.SOCKET_NAME), 2.0)
        connection.settimeout(5.0)
        try:
            connection.ask({"op": "disarm", "seconds": 1, "reason": "x" * 100_000})
        finally:
            connection.close()
    except (DaemonError, WireError, ConnectionError):
        pass


def cpu_share(pid: int) -> float:
    def used() -> float:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(0.5)
    return (used() - before) / 0.5


# -- the log is dead ------------------------------------------------------------------------------------------------


class Unread(Guard):
    """A daemon whose standard error is given from outside."""

    stderr: int

    def launch(self) -> Supervised:
        with os.fdopen(os.dup(self.stderr), "wb") as log:
            process = Supervised(self.daemon_command(), log, {**os.environ, **self.environment})
        self._launched.append(process)
        return process

    def start(self) -> None:
        self.process = self.launch()
        assert eventually(self._answers, 20)

    def _answers(self) -> bool:
        try:
            return self.status() == []
        except DaemonError:
            return False


@pytest.mark.parametrize("how", ["full pipe", "closed pipe", "full socket"])
def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path: Path, vm: Vm, how: str) -> None:
    reader, writer = os.pipe()
    if how == "full socket":  # as journald's stream is
        one, other = socket.socketpair()
        os.dup2(one.detach(), reader)
        os.dup2(other.detach(), writer)
    if how == "closed pipe":
        os.close(reader)
    else:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(1024))
        os.set_blocking(writer, True)
    guard = Unread(tmp_path)
    guard.stderr = writer
    with guard, running(guard, vm):
        assert guard.vmguard("check", "web").status == 0
    os.close(writer)


# -- /proc with hidepid, and who may connect ------------------------------------------------------------------------


def test_hidden_processes_are_seen_by_the_daemon_all_the_same(tmp_path: Path, vm: Vm) -> None:
    with Space("mount -t proc -o hidepid=2 none /proc") as space:
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        seen = subprocess.run(
            [*space.prefix, *nobody, "ls", "/proc"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        assert "1" not in seen, "the control: others see nothing"
        with Guard(tmp_path, prefix=space.prefix) as guard, running(guard, vm):
            assert guard.vmguard("check", "web").status == 0
        assert eventually(lambda: not locks_on(*vm.disks))


def test_only_root_can_reach_the_socket(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {os.getcwd()!r}); from vmguard.protocol import wire; "
    code += "wire.connect(sys.argv[1], 1)"
    with Guard(tmp_path) as guard:
        path = guard.run_dir / wire.SOCKET_NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(guard.run_dir.stat().st_mode) == 0o700
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        done = subprocess.run(
            [*nobody, sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "DaemonForbidden" in done.stderr or "PermissionError" in done.stderr, done.stderr


# -- many ask at once, and a second daemon ---------------------------------------------------------------------------


def test_more_questions_than_the_queue_holds_are_all_answered(tmp_path: Path, vm: Vm) -> None:
    """A queue of 512 is not enough for everybody while the daemon stands still; whoever finds it full waits."""
    with Guard(tmp_path) as guard, running(guard, vm):
        os.kill(guard.pid, signal.SIGSTOP)
        words = [sys.executable, "-m", "tests.bench.load_asker", str(guard.run_dir), "700", "700"]
        asker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        time.sleep(1.5)
        os.kill(guard.pid, signal.SIGCONT)
        answer = asker.communicate(timeout=30)[0]
        assert '"refused": []' in answer
        assert answer.count(",") >= 700


#: starts a program with a listening socket, as systemd does
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def test_a_second_daemon_with_a_socket_of_systemd_is_refused_and_the_first_is_unharmed(tmp_path: Path, vm: Vm) -> None:
    with Guard(tmp_path) as guard, running(guard, vm), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        path = guard.run_dir / wire.SOCKET_NAME
        before = path.stat().st_ino
        listener.bind(str(tmp_path / "activated"))
        listener.listen()
        second = subprocess.run(
            [sys.executable, "-c", _AS_SYSTEMD, str(listener.fileno()), *guard.daemon_command()],
            pass_fds=[listener.fileno()],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
        )
        assert second.returncode == 3
        assert f"another vmguard daemon runs with {guard.run_dir}" in second.stderr
        assert path.stat().st_ino == before
        assert is_pinned(guard, vm)
        assert claim(guard, new_vm(tmp_path)).status == 0
