"""A claim that is killed at any step leaves nothing locked, and the next start works.

The hook runs for real, behind its shell shim and an sh in libvirtd's place; the daemon runs for real; a fault point
kills the hook's process, its child, or their parent with SIGKILL. The same for the processes that stand by for a start:
test_standby.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import Answer, Guard, Vm, eventually, holders_of, locks_on, make_disk
from tests.support.processes import track
from vmguard.faults import CLAIM_POINTS

pytestmark = pytest.mark.process

#: points that the hook itself passes; its child passes all others
IN_HOOK = ("start", "connected", "forked", "reported", "committed")
VICTIMS = ("", "parent:", "both:")


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with Guard(tmp_path_factory.mktemp("faults"), hook={"standby": False}) as guard:
        yield guard


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm("web", [make_disk(tmp_path / f"disk{number}.raw") for number in range(3)])


def expected(victim: str, point: str) -> set[str]:
    """``stands``: the hook had said that its claim stands. ``gone``: it had not, and cannot any more."""
    hook_dies = victim in (("", "both:") if point in IN_HOOK else ("parent:", "both:"))
    if point == "committed":
        return {"stands"}
    if point in IN_HOOK and not hook_dies:  # only libvirtd died: its orphan goes on
        return {"stands"}
    return {"gone"}


@pytest.mark.parametrize("victim", VICTIMS, ids=["itself", "parent", "both"])
@pytest.mark.parametrize("point", CLAIM_POINTS)
def test_a_claim_killed_at_any_step_leaves_nothing_locked(guard: Guard, vm: Vm, victim: str, point: str) -> None:
    answer = guard.hook("prepare", vm.xml(), fault=victim + point)
    assert answer.seconds < 3
    assert becomes(guard, vm) in expected(victim, point), answer.err
    if stands(guard, vm):
        assert len(locks_on(*vm.disks)) >= len(vm.disks)
        assert guard.hook("release", vm.xml()).status == 0
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
    assert_an_ordinary_start_works(guard, vm)


def stands(guard: Guard, vm: Vm) -> bool:
    return [found["state"] for found in guard.status() if found["uuid"] == vm.uuid] == ["claimed"]


def becomes(guard: Guard, vm: Vm) -> str:
    """What the claim is once nobody works on it any more."""
    assert eventually(lambda: not set(holders_of(*vm.disks)) - {guard.pid}), "a hook's process is still there"
    eventually(lambda: stands(guard, vm) or guard.nothing_left(*vm.disks))
    return "stands" if stands(guard, vm) else "gone"


def assert_an_ordinary_start_works(guard: Guard, vm: Vm) -> None:
    answer = guard.hook("prepare", vm.xml())
    assert (answer.status, answer.err) == (0, "")
    assert stands(guard, vm)
    assert guard.hook("release", vm.xml()).status == 0
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)


def test_negative_control_a_lock_that_lives_on_is_seen_by_the_same_check(guard: Guard, vm: Vm) -> None:
    code = (
        "import fcntl, struct, sys; file = open(sys.argv[1], 'r+b');"
        "fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0)); print('locked');"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    with track(
        subprocess.Popen([sys.executable, "-c", code, str(vm.disks[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert not eventually(lambda: guard.nothing_left(*vm.disks), 0.2)
        refused = guard.hook("prepare", vm.xml())
        assert refused.status == 1
        assert str(vm.disks[1]) in refused.err
        other.communicate()
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
    assert_an_ordinary_start_works(guard, vm)


def test_negative_control_every_fault_point_is_really_passed(guard: Guard, vm: Vm) -> None:
    """A point that nobody passes would make its test above an ordinary start."""
    for point in CLAIM_POINTS:
        answer = guard.hook("prepare", vm.xml(), fault=point)
        assert answer.status == (137 if point in IN_HOOK else 1), (point, answer)
        guard.hook("release", vm.xml())
        assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)


def test_negative_control_a_child_killed_at_its_record_writes_none(guard: Guard, vm: Vm) -> None:
    folder = vm.disks[0].parent / ".vmguard"
    guard.hook("prepare", vm.xml(), fault="record")
    guard.hook("release", vm.xml())
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
    assert not folder.exists()
    assert_an_ordinary_start_works(guard, vm)
    assert eventually(lambda: len(list(folder.glob("*.owner"))) == len(vm.disks))


# -- the daemon dies ------------------------------------------------------------------------------------------------


class Claim:
    """A hook that runs while the test does something."""

    def __init__(self, guard: Guard, vm: Vm) -> None:
        command = guard.hook_command(vm.name, "prepare", "begin", "-")
        pipe = subprocess.PIPE
        self.process = track(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=guard.hook_environment())
        )
        assert self.process.stdin is not None
        self.process.stdin.write(vm.xml())
        self.process.stdin.close()
        self.process.stdin = None

    def answer(self) -> Answer:
        out, err = self.process.communicate(timeout=20)
        return Answer(self.process.returncode, out.decode(), err.decode(), 0.0)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Guard]:
    with Guard(tmp_path, hook={"wait": "3s", "standby": False}) as guard:
        yield guard


def assert_refused_and_nothing_locked(guard: Guard, vm: Vm, answer: Answer) -> None:
    assert answer.status == 1
    assert "vmguard" in answer.err
    assert answer.out == ""
    assert eventually(lambda: not locks_on(*vm.disks) and not holders_of(*vm.disks))
    guard.start()
    assert_an_ordinary_start_works(guard, vm)


def test_the_daemon_is_killed_while_the_hook_asks(mortal: Guard, vm: Vm) -> None:
    os.kill(mortal.pid, signal.SIGSTOP)
    claim = Claim(mortal, vm)
    time.sleep(0.3)
    assert claim.process.poll() is None
    mortal.kill()
    assert_refused_and_nothing_locked(mortal, vm, claim.answer())


def test_the_daemon_is_killed_while_the_hook_waits_for_a_lock(mortal: Guard, vm: Vm) -> None:
    with rival(vm.disks[2]):
        claim = Claim(mortal, vm)
        assert eventually(lambda: vm.disks[2] in opened_by_hooks(mortal, vm))
        mortal.kill()
    assert_refused_and_nothing_locked(mortal, vm, claim.answer())


def test_the_daemon_is_killed_while_the_locks_are_on_their_way(mortal: Guard, vm: Vm) -> None:
    with rival(vm.disks[2]):
        claim = Claim(mortal, vm)
        assert eventually(lambda: vm.disks[2] in opened_by_hooks(mortal, vm))
        os.kill(mortal.pid, signal.SIGSTOP)
    assert eventually(lambda: len(locks_on(*vm.disks)) >= 3)
    time.sleep(0.2)  # the descriptors lie in the stopped daemon's queue
    mortal.kill()
    assert_refused_and_nothing_locked(mortal, vm, claim.answer())


@pytest.mark.parametrize("milliseconds", range(0, 60, 6))
def test_the_daemon_is_killed_at_any_moment_of_a_claim(mortal: Guard, vm: Vm, milliseconds: int) -> None:
    claim = Claim(mortal, vm)
    time.sleep(milliseconds / 1000)
    mortal.kill()
    answer = claim.answer()
    # Outside systemd there is no descriptor store: a claim that was through is lost with the daemon. It is never half.
    assert eventually(lambda: not locks_on(*vm.disks) and not set(holders_of(*vm.disks)))
    mortal.start()
    assert set(mortal.guards(vm.name).values()) <= {"lost"}
    if answer.status == 0:
        assert mortal.guards(vm.name), "the start went on, so the next daemon must know of it"
    assert mortal.hook("release", vm.xml()).status == 0  # libvirt calls it after a refused start, too
    assert eventually(lambda: mortal.nothing_left(*vm.disks)), mortal.leftovers(*vm.disks)
    assert_an_ordinary_start_works(mortal, vm)


def opened_by_hooks(guard: Guard, vm: Vm) -> set[Path]:
    return {disk for disk in vm.disks if set(holders_of(disk)) - {guard.pid, os.getpid()}}


class rival:
    """An exclusive lock of the whole file, for the length of a ``with`` block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        from vmguard.adapters.linux import ofd

        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        ofd.lock(self._fd, str(self._path), ofd.WRITE, (0, 0))

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
