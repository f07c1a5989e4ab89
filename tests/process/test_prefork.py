"""Processes that stand by do the claim for the shim: as well as an interpreter of its own would, and never worse.

The shim's interpreter is taken away here where a test wants to see who did the claim: without it, only a process that
stands by can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_claim_faults import Claim, assert_an_ordinary_start_works, rival
from tests.support.guard import Answer, Guard, Vm, eventually, holders_of, locks_on, make_disk, run

pytestmark = pytest.mark.process

_INTERPRETER = "VMGUARD_PYTHON="
#: points that the keeper of a claim passes once it was called, and those that its child passes
KEEPER_POINTS = ("start", "reported", "committed", "answering")
CHILD_POINTS = ("asked", "planned", "opened", "first-lock", "all-locked", "windows-free", "held")


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard(tmp_path) as guard:
        assert ready(guard)
        yield guard


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm("web", [make_disk(tmp_path / f"disk{number}.raw") for number in range(3)])


def ready(guard: Guard, count: int = 2) -> bool:
    return eventually(lambda: len(asks(guard)) == count, 6)


def asks(guard: Guard) -> list[Path]:
    return list((guard.run_dir / "standby").glob("*.ask"))


def standing_by(guard: Guard) -> list[int]:
    """All processes that stand by for this guard: the one that keeps the others first."""
    folder = os.fsencode(guard.run_dir / "standby")
    found = []
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))):
        try:
            if folder in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            pass
    return found


def without_interpreter(guard: Guard) -> None:
    lines = guard.hook_file.read_text().splitlines(keepends=True)
    guard.hook_file.write_text(
        "".join(f"{_INTERPRETER}/bin/false\n" if line.startswith(_INTERPRETER) else line for line in lines)
    )


def claim(guard: Guard, vm: Vm) -> Answer:
    return guard.hook("prepare", vm.xml(), name=vm.name)


def release(guard: Guard, vm: Vm) -> None:
    assert guard.hook("release", vm.xml()).status == 0
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)


# -- as with an interpreter of its own ------------------------------------------------------------------------------


def test_a_claim_needs_no_interpreter(guard: Guard, vm: Vm) -> None:
    without_interpreter(guard)
    answer = claim(guard, vm)
    assert (answer.status, answer.out, answer.err) == (0, "", "")
    assert guard.states() == {"web": "claimed"}
    assert len(locks_on(*vm.disks)) >= len(vm.disks)


def test_negative_control_without_either_the_start_is_refused(guard: Guard, vm: Vm) -> None:
    guard.stop()
    without_interpreter(guard)
    assert claim(guard, vm).status == 1


def test_a_refusal_is_told_in_the_same_words(guard: Guard, vm: Vm) -> None:
    with rival(vm.disks[1]):
        theirs = claim(guard, vm)
        for pid in standing_by(guard):
            os.kill(pid, signal.SIGKILL)
        own = claim(guard, vm)
    assert theirs.status == own.status == 1
    assert str(vm.disks[1]) in theirs.err
    assert without_numbers(theirs.err) == without_numbers(own.err)


def without_numbers(text: str) -> str:
    return "".join(letter for letter in text if not letter.isdigit())


@pytest.mark.parametrize("name", ["--help", "two words", 'say "hi"\n$(reboot)', "näme"])
def test_a_name_is_a_name(guard: Guard, vm: Vm, name: str) -> None:
    without_interpreter(guard)
    vm.name = name
    answer = claim(guard, vm)
    assert (answer.status, answer.err) == (0, "")
    assert list(guard.states()) == [name]


def test_seven_megabytes_of_xml_pass(guard: Guard, vm: Vm) -> None:
    without_interpreter(guard)
    answer = guard.hook("prepare", vm.xml(f"<!-- {'x' * (7 << 20)} -->"))
    assert (answer.status, answer.err) == (0, "")


@pytest.mark.parametrize("stdin", [b"", b"not XML", b"<domain>"])
def test_a_document_that_is_none_is_refused_in_words(guard: Guard, vm: Vm, stdin: bytes) -> None:
    without_interpreter(guard)
    answer = guard.hook("prepare", stdin)
    assert answer.status == 1
    assert "domain XML" in answer.err


def test_the_owner_records_are_written_for_others_to_read(guard: Guard, vm: Vm) -> None:
    without_interpreter(guard)
    assert claim(guard, vm).status == 0
    folder = vm.disks[0].parent / ".vmguard"
    assert eventually(lambda: folder.exists() and len(list(folder.glob("*.owner"))) == len(vm.disks))
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.owner")} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_libvirt_need_not_wait_for_anybody_who_keeps_its_pipes(guard: Guard, vm: Vm) -> None:
    """``run`` ends when nobody has them any more, libvirt does the same: the child writes records behind the start."""
    answer = claim(guard, vm)
    assert answer.status == 0
    assert answer.seconds < 1


# -- never worse ----------------------------------------------------------------------------------------------------


def test_ten_starts_at_one_moment(guard: Guard, tmp_path: Path) -> None:
    vms = [Vm(f"vm{number}", [make_disk(tmp_path / f"vm{number}.raw")]) for number in range(10)]
    claims = [Claim(guard, vm) for vm in vms]
    assert {one.answer().status for one in claims} == {0}
    assert guard.states() == {vm.name: "claimed" for vm in vms}
    assert ready(guard)


def test_nobody_stands_by_where_the_admin_wants_it_so(tmp_path: Path, vm: Vm) -> None:
    with Guard(tmp_path, hook={"standby": False}) as guard:
        assert claim(guard, vm).status == 0
        assert not standing_by(guard)


def test_they_end_with_the_daemon_however_that_ends(guard: Guard) -> None:
    assert len(standing_by(guard)) == 5  # one that keeps them, two that wait, and a child for each of those
    guard.kill()
    assert eventually(lambda: not standing_by(guard))
    assert not list((guard.run_dir / "standby").iterdir())


def test_what_killed_ones_leave_behind_costs_no_start(guard: Guard, vm: Vm) -> None:
    for pid in standing_by(guard):
        with contextlib.suppress(ProcessLookupError):  # one that ends takes another along
            os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not standing_by(guard))
    assert len(asks(guard)) == 2, "the names are still there, and nobody behind them"
    for _ in range(3):
        assert_an_ordinary_start_works(guard, vm)


def test_the_daemon_starts_them_again(guard: Guard, vm: Vm) -> None:
    before = standing_by(guard)
    os.kill(before[0], signal.SIGKILL)
    assert eventually(lambda: len(standing_by(guard)) == 5 and not set(standing_by(guard)) & set(before), 15)
    assert ready(guard)
    without_interpreter(guard)
    assert claim(guard, vm).status == 0


def test_one_that_was_killed_is_replaced(guard: Guard, vm: Vm) -> None:
    keeper = int(asks(guard)[0].stem)
    os.kill(keeper, signal.SIGKILL)
    assert eventually(lambda: len(standing_by(guard)) == 5 and keeper not in standing_by(guard), 5)
    assert_an_ordinary_start_works(guard, vm)


def test_a_child_that_was_killed_takes_its_keeper_with_it(guard: Guard, vm: Vm) -> None:
    keeper = int(asks(guard)[0].stem)
    (child,) = children_of(keeper)
    os.kill(child, signal.SIGKILL)
    assert eventually(lambda: keeper not in standing_by(guard) and len(standing_by(guard)) == 5, 5)
    without_interpreter(guard)
    assert claim(guard, vm).status == 0


def test_a_door_that_does_not_open_costs_no_start(guard: Guard, vm: Vm) -> None:
    """A shell that cannot redirect ends at once, if one lets it, and libvirt would take that for a refusal."""
    for ask in asks(guard):
        answer = ask.with_suffix(".answer")
        answer.unlink()
        answer.mkdir()  # not even root can write to that
    answer_of_the_hook = claim(guard, vm)
    assert answer_of_the_hook.status == 0
    assert "Is a directory" in answer_of_the_hook.err
    release(guard, vm)


@pytest.mark.parametrize(
    "words", [b"", b"\n", b"gibberish\n", b"1\n", b"0\n", b"-1\n", b"99999999999999999999\n", b"x" * 4096]
)
def test_a_caller_that_is_none_gets_nothing(guard: Guard, vm: Vm, words: bytes) -> None:
    for ask in asks(guard):
        ask.with_suffix(".taken").touch(exist_ok=False)
        with ask.open("wb") as stream:
            stream.write(words)
    without = len(asks(guard))
    assert_an_ordinary_start_works(guard, vm)
    assert without <= 2
    if words:
        assert ready(guard)


def test_a_caller_whose_paths_mean_something_else_is_left_to_itself(guard: Guard, vm: Vm) -> None:
    """It has a mount namespace of its own: what it calls a disk may be another file here."""
    command = ["unshare", "--mount", "--propagation", "private", *guard.hook_command("web", "prepare", "begin", "-")]
    assert run(command, vm.xml(), guard.hook_environment()).status == 0
    release(guard, vm)
    assert ready(guard)
    without_interpreter(guard)
    assert run(command, vm.xml(), guard.hook_environment()).status == 1


# -- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [*KEEPER_POINTS, *CHILD_POINTS])
def test_a_claim_killed_at_any_step_leaves_nothing_locked(tmp_path: Path, vm: Vm, point: str) -> None:
    guard = Guard(tmp_path)
    guard.environment = {"VMGUARD_FAULT": point}
    with guard:
        assert ready(guard)
        answer = claim(guard, vm)
        assert answer.status == 1
        assert "ended from outside" in answer.err
        if point in ("committed", "answering"):  # the claim stands; libvirt, which was refused, says that it is over
            assert guard.states() == {"web": "claimed"}
        assert guard.hook("release", vm.xml()).status == 0
        assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
        guard.kill()
        guard.environment = {}
        guard.start()
        assert ready(guard)
        assert_an_ordinary_start_works(guard, vm)


def test_a_caller_that_dies_takes_its_claim_with_it(tmp_path: Path, vm: Vm) -> None:
    with Guard(tmp_path, hook={"wait": "10s"}) as guard, rival(vm.disks[2]):
        assert ready(guard)
        hook = Claim(guard, vm)
        assert eventually(lambda: bool(set(holders_of(vm.disks[2])) & set(standing_by(guard))))
        shims = children_of(hook.process.pid)
        assert shims
        for pid in (hook.process.pid, *shims):
            os.kill(pid, signal.SIGKILL)
        hook.process.communicate()
        assert eventually(lambda: set(holders_of(*vm.disks)) == {os.getpid()}), "it went on waiting for nobody"
        assert guard.states() == {}
        assert ready(guard)


def test_a_daemon_that_dies_refuses_the_start(tmp_path: Path, vm: Vm) -> None:
    with Guard(tmp_path, hook={"wait": "2s"}) as guard:
        assert ready(guard)
        with rival(vm.disks[2]):
            hook = Claim(guard, vm)
            assert eventually(lambda: bool(set(holders_of(vm.disks[2])) & set(standing_by(guard))))
            guard.kill()
        answer = hook.answer()
        assert answer.status == 1
        assert "vmguard" in answer.err
        assert eventually(lambda: not locks_on(*vm.disks) and not holders_of(*vm.disks))
        guard.start()
        assert_an_ordinary_start_works(guard, vm)


@pytest.mark.parametrize("milliseconds", range(0, 20, 4))
def test_they_are_killed_at_any_moment_of_a_claim(guard: Guard, vm: Vm, milliseconds: int) -> None:
    victims = standing_by(guard)
    hook = Claim(guard, vm)
    time.sleep(milliseconds / 1000)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    answer = hook.answer()
    if answer.status == 0:
        assert guard.states() == {"web": "claimed"}
    release(guard, vm)
    assert_an_ordinary_start_works(guard, vm)


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE, text=True, check=False).stdout
    return [int(word) for word in found.split()]
