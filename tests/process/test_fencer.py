"""The fence ladder as the daemon climbs it: who is killed and who must not be, what is written down, what survives."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fencer_harness import WRITER, World, begin_fence
from tests.support.guard import eventually
from vmguard import faults
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import hardware_watchdog, proc
from vmguard.core.sources.process_arguments import Kind
from vmguard.core.watchdog.events import Level
from vmguard.core.watchdog.fence_ladder import Others, Rung
from vmguard.core.watchdog.policy import AfterFence, HostFence, Policy
from vmguard.daemon.fence.evidence import FenceProgress, evidence
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm

pytestmark = pytest.mark.process

Caplog = pytest.LogCaptureFixture


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


# -- the way up -----------------------------------------------------------------------------------------------------


def test_each_rung_is_reported_once_and_before_it_is_taken(world: World) -> None:
    vm = world.vm()
    begin_fence(world, vm)
    assert world.codes[0] == "fence.kill"
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    assert json.loads(next(world.fences.iterdir()).read_text())["evidence"] == "the lock is lost"
    world.ended(vm)
    assert world.turn(lambda: "fence.drain" in world.codes)
    vm.drained = True
    assert world.turn(lambda: "fence.release" in world.codes)
    world.release(vm)
    assert world.turn(lambda: "fence.done" in world.codes)
    kept = [code for code in world.codes if code != "fence.death"]
    assert kept == ["fence.kill", "fence.drain", "fence.release", "fence.done"]
    assert world.gone == [vm.id]
    assert list(world.fences.iterdir()) == []
    assert not any(report.level is Level.ERROR for report in world.reports)


@pytest.mark.parametrize("quick", [True, False])
def test_the_fault_points_of_all_rungs_are_passed_also_when_death_is_quicker_than_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """A test that kills the daemon on a rung must find that rung each time."""
    passed: list[str] = []
    monkeypatch.setattr(faults, "point", passed.append)
    kill = world.signals.killer

    def kill_and_wait(vm: GuardedVm) -> set[int]:
        killed = kill(vm)
        assert eventually(lambda: all(proc.is_dead(fd) for fd in vm.pidfds))
        return killed

    world.signals.killer = kill_and_wait if quick else lambda vm: {vm.pid}
    vm = world.vm()
    begin_fence(world, vm)
    assert ("fence.death" in world.codes) is not quick
    kill(vm)
    assert world.turn(lambda: "fence.drain" in world.codes)
    world.release(vm)
    assert world.turn(lambda: "fence.done" in world.codes)
    rungs = [name for name in passed if name.removeprefix("fence-") in [*Rung]]
    assert rungs == [f"fence-{rung}" for rung in Rung]


@pytest.mark.parametrize(
    "point", ["fence-begun", "fence-copy", "fence-kill", "fence-killed", "fence-death", "fence-drain"]
)
def test_a_daemon_killed_on_a_rung_is_followed_by_one_that_finishes(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """However quick its QEMU is in dying. tests/scenarios/test_fence.py does so on a real share."""
    vm = world.vm()
    daemon = os.fork()
    if daemon == 0:
        monkeypatch.setenv("VMGUARD_FAULT", point)
        try:
            begin_fence(world, vm)
            world.turn(lambda: False, 3)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1]) == -signal.SIGKILL
    assert os.listdir(world.fences), "it was not written down"
    begin_fence(world, vm)
    assert world.turn(lambda: "fence.drain" in world.codes)
    assert proc.is_dead(vm.pidfd)
    world.release(vm)
    assert world.turn(lambda: "fence.done" in world.codes)
    assert os.listdir(world.fences) == []


def test_a_deadline_that_passes_is_an_alarm_and_never_a_proof(world: World) -> None:
    vm = world.vm()
    begin_fence(world, vm)
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    world.ended(vm)
    assert world.turn(lambda: any("ALARM" in report.sentence for report in world.reports))
    world.turn(lambda: False, 1.0)
    alarms = [report.sentence for report in world.reports if report.level is Level.ERROR]
    assert len(alarms) == 1
    assert "still queued" in alarms[0]
    assert vm.files[0].guard.descriptor is not None
    assert world.fencer.fences[vm.id].rung is Rung.DRAIN
    assert not world.host.fired


def test_host_fence_fires_only_where_it_is_wanted_and_is_taken_back_by_the_proof(world: World) -> None:
    device = world.folder / "watchdog"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    vm = world.vm()
    begin_fence(world, vm, host_fence=HostFence.WATCHDOG)
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    world.ended(vm)
    assert world.turn(lambda: world.host.fired)
    assert world.codes.count("fence.host") == 1
    vm.drained = True
    assert world.turn(lambda: "fence.host-cancelled" in world.codes)
    assert os.read(reader, 10) == b"V"
    os.close(reader)


def test_a_client_of_watchdog_mux_leaves_without_a_v(tmp_path: Path) -> None:
    said: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mux:
        mux.bind(str(tmp_path / "mux"))
        mux.listen(1)
        listener = threading.Thread(target=lambda: said.append(mux.accept()[0].recv(10)))
        listener.start()
        fence = hardware_watchdog.HardwareWatchdog(str(tmp_path / "mux"))
        assert fence.missing() == ""
        fence.fire()
        listener.join(5)
    assert said == [b""]
    assert not fence.cancel()


def test_a_host_without_a_watchdog_says_so_beforehand(tmp_path: Path) -> None:
    assert "No such file" in hardware_watchdog.HardwareWatchdog(str(tmp_path / "none")).missing()
    (tmp_path / "file").touch()
    assert "neither" in hardware_watchdog.HardwareWatchdog(str(tmp_path / "file")).missing()


def test_libvirts_own_books_are_waited_for_and_given_up(world: World) -> None:
    (world.folder / "web.xml").touch()
    vm = world.vm()
    begin_fence(world, vm)
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    world.ended(vm)
    vm.drained = True
    world.release(vm)
    assert world.turn(lambda: "fence.clean-up" in world.codes)
    assert world.turn(lambda: "fence.done" in world.codes)
    assert "the hypervisor does not confirm" in world.reports[-1].sentence


def test_a_climb_that_fails_is_taken_up_again(world: World) -> None:
    vm, kill, failures = world.vm(), world.signals.killer, [MemoryError(), MemoryError()]

    def sometimes(vm: GuardedVm) -> set[int]:
        if failures:
            raise failures.pop()
        return kill(vm)

    world.signals.killer = sometimes
    world.loop.call_in(0, lambda: begin_fence(world, vm))
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    assert failures == []


# -- a daemon that was killed ---------------------------------------------------------------------------------------


def test_the_next_daemon_finishes_what_is_left_of_a_released_vm(world: World) -> None:
    (world.folder / "web.xml").touch()
    fence_file = FenceProgress(
        "libvirt-0000", "web", "0000", "libvirt", "lost", Policy(after_fence=AfterFence.OFF)
    ).as_json()
    (world.fences / "libvirt-0000.json").write_text(json.dumps(fence_file))
    (world.fences / "broken.json").write_text("{")
    world.fencer.resume()
    assert world.turn(lambda: "fence.clean-up" in world.codes)
    (world.folder / "web.xml").unlink()
    assert world.turn(lambda: "fence.done" in world.codes)
    assert list(world.fences.iterdir()) == []


def test_a_run_directory_that_cannot_be_written_does_not_stop_it(world: World, caplog: Caplog) -> None:
    vm = world.vm()
    folders = (world.fences, world.run_dir / "vms")
    for folder in folders:
        folder.rename(folder.with_name(f"{folder.name}-away"))
        folder.touch()
    begin_fence(world, vm)
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    assert "its fence cannot be written down" in caplog.text
    for folder in folders:
        folder.unlink()
        folder.with_name(f"{folder.name}-away").rename(folder)


# -- what it needs --------------------------------------------------------------------------------------------------

_heard: list[tuple[str, str]] | None = None


def _listen(event: str, args: tuple[object, ...]) -> None:
    if _heard is not None:
        _heard.append((event, str(args[0]) if args else ""))


@pytest.fixture
def heard() -> Iterator[list[tuple[str, str]]]:
    """What Python is asked for meanwhile: sys.audit(3) tells of every open, connection and process."""
    global _heard
    if not hasattr(sys, "_vmguard_listens"):
        sys.addaudithook(_listen)
        sys._vmguard_listens = True  # type: ignore[attr-defined]
    _heard = []
    yield _heard
    _heard = None


def needs(heard: list[tuple[str, str]], share: Path) -> list[tuple[str, str]]:
    """What would wait for somebody else: the share, a name server, a program, anything over a socket."""
    others = ("socket.", "subprocess.", "os.posix_spawn", "os.fork", "os.exec", "os.system", "ctypes.dlopen", "import")
    return [
        (event, what)
        for event, what in heard
        if event.startswith(others) or (event in ("open", "os.listdir", "os.scandir") and what.startswith(str(share)))
    ]


def test_freeze_kill_and_proof_of_death_need_nobody_else(world: World, heard: list[tuple[str, str]]) -> None:
    """Neither the share nor a name server nor libvirt nor a program: only signals, /proc and files below /run."""
    world.disk = (world.folder / "share") / "disk.raw"
    world.disk.parent.mkdir()
    world.disk.write_bytes(bytes(4096))
    vm = world.vm()
    done: list[str] = []
    heard.clear()
    world.signals.freeze(vm, done.append)
    assert world.turn(lambda: done == [""])
    begin_fence(world, vm)
    assert world.turn(lambda: proc.is_dead(vm.pidfd))
    assert needs(heard, world.disk.parent) == []
    opened = {what for event, what in heard if event == "open"}
    assert opened, "nothing was heard"
    assert all(is_at_hand(what, world.run_dir, vm.id) for what in opened), opened


def is_at_hand(what: str, run_dir: Path, vm_id: str) -> bool:
    """Whether a file lies in /proc, /sys or the run directory, by its path or by the descriptor of its folder."""
    if what.startswith("/") and what != "/":
        return what.startswith(("/proc/", str(run_dir), "/sys/"))
    return what in {".", "vms", "fences", *run_dir.parts} or what.startswith(f"{vm_id}.json")


def test_negative_control_whoever_needs_the_share_or_a_name_is_heard(
    world: World, heard: list[tuple[str, str]]
) -> None:
    world.disk.read_bytes()
    socket.getaddrinfo("localhost", 1)
    subprocess.run(["true"], check=True)
    found = {event for event, _ in needs(heard, world.folder)}
    assert {"open", "socket.getaddrinfo", "subprocess.Popen"} <= found


# -- helpers --------------------------------------------------------------------------------------------------------


def helper(world: World, vm: GuardedVm, vouched: bool = True) -> int:
    child = world.run(WRITER, str(world.disk))
    pidfd = os.pidfd_open(child.pid)
    vm.processes.append(GuardedProcess(child.pid, Kind.STORAGE_DAEMON, "qsd", pidfd=pidfd, vouched=vouched))
    return child.pid


def test_its_helpers_die_with_it(world: World) -> None:
    vm = world.vm()
    pid = helper(world, vm)
    begin_fence(world, vm)
    assert world.turn(lambda: all(proc.is_dead(fd) for fd in vm.pidfds))
    assert _state(pid) in "ZX"


def test_a_helper_that_comes_late_is_killed_as_well(world: World) -> None:
    vm = world.vm()
    begin_fence(world, vm)
    helper(world, vm)
    assert world.turn(lambda: all(proc.is_dead(fd) for fd in vm.pidfds))


def test_freeze_and_thaw_stop_and_continue_qemu_and_its_helpers(world: World) -> None:
    vm = world.vm()
    pid = helper(world, vm)
    done: list[str] = []
    world.signals.freeze(vm, done.append)
    assert world.turn(lambda: done == [""])
    assert (_state(vm.pid), _state(pid)) == ("T", "T")
    assert json.loads(next((world.run_dir / "vms").iterdir()).read_text())["frozen"] is True
    world.signals.thaw(vm, done.append)
    assert eventually(lambda: _state(vm.pid) == "S" and _state(pid) == "S")
    assert done == ["", ""]


@pytest.mark.parametrize("vouched", [True, False])
def test_only_a_helper_that_the_kernel_vouches_for_can_hold_up_a_fence_or_a_freeze(world: World, vouched: bool) -> None:
    vm = world.vm()
    pid = helper(world, vm, vouched)
    fence = FenceProgress(vm.id, vm.name, vm.uuid, vm.hypervisor, "lost", Policy(), vm.pid, vm)
    judged = {process.pid for process in evidence(fence, Others.NONE, RunDirs("", "")).processes}
    assert judged == ({vm.pid, pid} if vouched else {vm.pid})
    done: list[str] = []

    def goes_on() -> bool:
        os.kill(pid, signal.SIGCONT)  # whatever is done to it
        return bool(done)

    world.signals.freeze(vm, done.append)
    goes_on()
    assert world.turn(goes_on)
    assert done == [""] or vouched  # a vouched one may have been seen to stop in time


def test_a_frozen_vm_is_stopped_again_when_somebody_else_continues_it(world: World) -> None:
    vm = world.vm()
    done: list[str] = []
    world.signals.freeze(vm, done.append)
    assert world.turn(lambda: done == [""])
    os.kill(vm.pid, signal.SIGCONT)
    assert eventually(lambda: _state(vm.pid) == "S")
    assert world.turn(lambda: _state(vm.pid) == "T")
    world.signals.thaw(vm, done.append)
    assert not world.turn(lambda: _state(vm.pid) == "T", 1.5), "control: a thawed VM is left alone"


def _state(pid: int) -> str:
    return proc.thread_state(pid, pid)
