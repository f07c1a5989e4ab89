"""While disarmed, no signal leaves the daemon, whatever the reason; each reason is in history, notify and metrics.

The lost lock needs a server that loses it: tests/scenarios/test_watch.py has it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_migration_target import Qemu, Source, Target
from tests.support.daemon_harness import Rival
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, make_disk
from vmguard.adapters.linux import clock, ofd, proc
from vmguard.config.migration import Migration
from vmguard.core.locks.claim_states import State
from vmguard.core.watchdog.events import Disarm

pytestmark = pytest.mark.process


class Scene:
    """A guarded VM of a real daemon, and a disk of somebody else's."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, **unguarded: str) -> None:
        self.told = folder / "told"
        notify = {"command": f'echo "$VMGUARD_EVENT" >> {self.told}', "level": "info"}
        self.guard = Guard(folder, unguarded=unguarded, notify=notify)
        self.guard.environment.update(environment or {})
        self.guard.start()
        self.vm = Vm("web", [make_disk(folder / "mine.raw")])
        self.other = make_disk(folder / "theirs.raw")
        assert self.guard.hook("prepare", self.vm.xml(), self.vm.name).status == 0
        self.qemu = FakeQemu(self.guard.libvirt_dir, self.vm)
        assert eventually(lambda: self.guard.guards("web") == {str(self.vm.disks[0]): "pinned"})
        self.rival = Source(self.other)

    @property
    def state(self) -> str:
        """The kernel's letter for QEMU: T is stopped, Z is dead."""
        return proc.thread_state(self.qemu.pid, self.qemu.pid)

    def codes(self) -> list[str]:
        found = json.loads(self.guard.vmguard("history", "--json").out)
        return [entry["code"] for incident in found["incidents"] for entry in incident]

    def metrics(self) -> str:
        return self.guard.vmguard("metrics").out

    def end(self) -> None:
        self.qemu.kill()
        self.guard.stop()
        self.rival.let_go()


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(tmp_path, **getattr(request, "param", {}))
    yield made
    made.end()


ACTIONS = [{"action": "freeze", "fence_after": "1s"}, {"action": "fence"}]


@pytest.mark.parametrize("scene", ACTIONS, indirect=True)
def test_a_conflict_while_disarmed_is_told_everywhere_and_nothing_is_done(scene: Scene) -> None:
    scene.guard.vmguard("disarm", "--for", "10m", "--reason", "maintenance")
    scene.qemu.open(scene.other)
    assert eventually(lambda: scene.guard.states()["web"] == "conflict")
    assert not eventually(lambda: scene.state in "TZX", 2.5)
    codes = scene.codes()
    assert "vm.conflict" in codes
    assert {"vm.freeze", "vm.fence"} & set(codes), "what would be done is told, too"
    assert "vm.conflict" in scene.told.read_text()
    assert 'event="vm.conflict"' in scene.metrics()
    assert "WOULD be" in scene.guard.vmguard("history").out


@pytest.mark.parametrize(("scene", "letters"), [(ACTIONS[0], "T"), (ACTIONS[1], "ZX")], indirect=["scene"])
def test_control_armed_it_is_frozen_or_killed_and_told(scene: Scene, letters: str) -> None:
    scene.qemu.open(scene.other)
    assert eventually(lambda: scene.state in letters)
    wanted = "vm.freeze" if letters == "T" else "vm.fence"
    assert eventually(lambda: {"vm.conflict", wanted} <= set(scene.codes()))
    assert eventually(lambda: wanted in scene.told.read_text())


@pytest.mark.parametrize("scene", [{"action": "freeze", "fence_after": "0s"}], indirect=True)
def test_armed_again_the_vm_is_frozen_at_once(scene: Scene) -> None:
    scene.guard.vmguard("disarm", "--for", "10m", "--reason", "maintenance")
    scene.qemu.open(scene.other)
    assert eventually(lambda: scene.guard.states()["web"] == "conflict")
    scene.guard.vmguard("arm")
    assert eventually(lambda: scene.state == "T")


@pytest.mark.parametrize("log_only", ["yes", "no"])
def test_one_vms_own_policy_holds_for_a_conflict(tmp_path: Path, log_only: str) -> None:
    scene = Scene(tmp_path)
    try:
        scene.guard.configure(vms={"web": {"log_only": log_only, "on_conflict": "fence"}})
        scene.guard.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        assert eventually(lambda: "configuration reloaded" in scene.guard.log)
        scene.qemu.open(scene.other)
        assert eventually(lambda: scene.state in "ZX", 2.0) == (log_only == "no")
        assert "vm.fence" in scene.codes()
    finally:
        scene.end()


# -- migration ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    made.qemus = []
    made.migration = Migration(deadline=0.3)
    made.loop.call_in(0.0, made.parts.start)
    yield made
    made.end()


def arrive_late(target: Target) -> tuple[Any, Qemu, Source]:
    disk = target.disk("one.raw")
    source = Source(disk)
    vm, qemu = target.arrive(disk)
    qemu.run()
    target.until(lambda: vm.state is State.CONFLICT)
    return vm, qemu, source


def test_a_migration_that_is_late_while_disarmed_runs_on_and_is_told(target: Target) -> None:
    target.parts.driver.feed(Disarm(clock.boottime(), clock.boottime() + 60, "maintenance"))
    _, qemu, source = arrive_late(target)
    target.spin(0.5)
    assert not qemu.stopped()
    assert {"vm.conflict", "vm.freeze"} <= set(target.history())
    source.let_go()


def test_control_armed_a_migration_that_is_late_is_frozen(target: Target) -> None:
    _, qemu, source = arrive_late(target)
    target.until(qemu.stopped)
    assert {"vm.conflict", "vm.freeze"} <= set(target.history())
    source.let_go()


@pytest.mark.parametrize("disarmed", [True, False])
def test_a_start_that_its_hook_took_for_a_migration_is_fenced_unless_disarmed(target: Target, disarmed: bool) -> None:
    if disarmed:
        target.parts.driver.feed(Disarm(clock.boottime(), clock.boottime() + 60, "maintenance"))
    disk = target.disk("one.raw")
    source = Source(disk)
    _, qemu = target.arrive(disk, incoming=False)
    target.spin(0.5)
    assert (qemu.process.poll() is None) == disarmed
    assert "vm.fence" in target.history()
    source.let_go()


def test_negative_control_a_rival_is_a_lock_that_excludes(tmp_path: Path) -> None:
    """Without a rival the scene above proves nothing."""
    disk = make_disk(tmp_path / "disk.raw")
    rival = Rival(disk)
    fd = os.open(disk, os.O_RDWR)
    assert ofd.conflict(fd, ofd.WRITE, (0, 0)) is not None
    rival.let_go()
    assert ofd.conflict(fd, ofd.WRITE, (0, 0)) is None
    os.close(fd)
