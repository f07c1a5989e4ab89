"""A test that fails, at whatever point, leaves no process behind; without that care each case leaves some."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.guard import REPOSITORY, Guard, eventually
from tests.support.processes import Supervised

pytestmark = pytest.mark.process

#: leaves a child in a session of its own, which only its command line tells of, then does what the test wants
_PARENT = """
setsid sleep "$1" &
until grep -qx sleep "/proc/$!/comm"; do sleep 0.01; done
echo made
{then}
"""
_NEVER_READY = _PARENT.format(then="exec sleep 1000")
_DIES = _PARENT.format(then="exit 3")


class Sleepers:
    """Processes that sleep for a number of seconds that no other process sleeps for."""

    def __init__(self) -> None:
        self.seconds = f"1{os.getpid()}.{time.monotonic_ns()}"

    def pids(self) -> list[int]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe").endswith("/sleep"):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found += [int(pid)] if self.seconds.encode() in words else []
            except OSError:
                continue
        return found

    def words(self, script: str) -> list[str]:
        return ["/bin/sh", "-c", script, "sh", self.seconds]


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    made = Sleepers()
    yield made
    for pid in made.pids():  # of a negative control, or of a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class _Impostor(Guard):
    """A guard whose daemon is another program."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        super().__init__(folder)
        self.words = words

    def daemon_command(self) -> list[str]:
        return self.words


def test_a_daemon_that_dies_in_its_start_leaves_no_child(tmp_path: Path, sleepers: Sleepers) -> None:
    guard = _Impostor(tmp_path, sleepers.words(_DIES))
    with pytest.raises(AssertionError):
        guard.start()
    assert "made" in guard.log
    assert guard.process is None
    assert sleepers.pids() == []


class _Interrupted(_Impostor):
    """A guard whose start is interrupted as soon as its daemon has a child."""

    @property
    def log(self) -> str:
        text = super().log
        if "made" in text:
            raise KeyboardInterrupt
        return text


def test_a_start_that_is_interrupted_leaves_nothing(tmp_path: Path, sleepers: Sleepers) -> None:
    guard = _Interrupted(tmp_path, sleepers.words(_NEVER_READY))
    with pytest.raises(KeyboardInterrupt):
        guard.start()
    assert sleepers.pids() == []


def test_negative_control_a_plain_process_leaves_its_child(sleepers: Sleepers) -> None:
    process = subprocess.Popen(sleepers.words(_DIES), stdout=subprocess.DEVNULL)
    assert process.wait(10) == 3
    assert len(sleepers.pids()) == 1


def test_a_real_daemon_and_its_children_end_together(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    guard.start()
    assert eventually(lambda: len(descendants(guard.pid)) >= 2, 10), "it has hooks that stand by"
    family = [guard.pid, *descendants(guard.pid)]
    guard.end()
    assert [pid for pid in family if os.path.exists(f"/proc/{pid}")] == []


def descendants(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [found for child in children for found in descendants(child)]


def test_everything_ends_with_the_process_of_the_test(tmp_path: Path, sleepers: Sleepers) -> None:
    """Also when that is killed, and no fixture has a chance."""
    code = (
        "import sys, time; from tests.support.processes import Supervised\n"
        "with open('/dev/null', 'wb') as null: process = Supervised(sys.argv[1:], null)\n"
        "print('started', flush=True); time.sleep(1000)"
    )
    command = [sys.executable, "-c", code, *sleepers.words(_NEVER_READY.replace("1000", '"$1"'))]
    with processes.track(subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)) as test:
        assert test.stdout is not None
        assert test.stdout.readline() == b"started\n"
        assert eventually(lambda: len(sleepers.pids()) == 2)
        test.kill()
    assert eventually(lambda: sleepers.pids() == [])


def test_a_command_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, pytest.raises(FileNotFoundError):
        Supervised(["/nonexistent/program"], log)


def test_an_exit_status_and_a_signal_are_told_apart(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert Supervised(["/bin/sh", "-c", "exit 7"], log).wait(10) == 7
        process = Supervised(["/bin/sh", "-c", "kill -TERM $$"], log)
        assert process.wait(10) == process.poll() == -signal.SIGTERM
        sleeping = Supervised(["sleep", "1000"], log)
        assert sleeping.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            sleeping.wait(0.1)
        assert sleeping.end()
        assert sleeping.returncode == -signal.SIGKILL


# -- in a run of pytest ---------------------------------------------------------------------------------------------

_TESTS = """
import subprocess
import pytest
from tests.support.processes import Supervised, track

SLEEP = {words!r}

def start():
    with open("/dev/null", "wb") as null:
        Supervised(SLEEP, null)
    track(subprocess.Popen(["sleep", {seconds!r}]))

@pytest.fixture
def half_way():
    start()
    start()
    raise RuntimeError("the set-up fails")
    yield

@pytest.fixture(scope="module")
def module_half_way():
    start()
    raise RuntimeError("the set-up fails")
    yield

def test_half_way(half_way): pass
def test_half_way_of_a_module(module_half_way): pass
def test_that_fails():
    start()
    assert False
def test_that_forgets():
    start()
"""


@pytest.mark.parametrize("with_care", [True, False], ids=["with the fixtures", "negative control: without them"])
def test_a_run_whose_fixtures_fail_half_way(tmp_path: Path, sleepers: Sleepers, with_care: bool) -> None:
    """The processes are counted while the run's own process is still there: its end would end them, too."""
    words = sleepers.words(_NEVER_READY)
    (tmp_path / "test_inner.py").write_text(_TESTS.format(words=words, seconds=sleepers.seconds))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    care = "from tests.conftest import *" if with_care else ""
    (tmp_path / "conftest.py").write_text(
        f"{care}\nimport time\n"
        "def pytest_unconfigure():\n"
        f"    open({str(tmp_path / 'done')!r}, 'w')\n"
        "    time.sleep(1000)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with (tmp_path / "log").open("wb") as log:
        run = processes.track(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log))
    assert eventually(lambda: (tmp_path / "done").exists(), 30), (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    if with_care:
        assert sleepers.pids() == []
        assert "the test has left 2 processes running" in said
        assert "1 failed, 1 passed, 3 errors" in said
    else:
        # five starts, each of them a daemon's child and a process of its own
        assert len(sleepers.pids()) == 2 * 5
        assert "1 failed, 1 passed, 2 errors" in said
    run.kill()
    run.wait(10)
