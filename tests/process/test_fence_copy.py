"""The first rung of the fence ladder: the copies of the descriptors that carry the locks are taken before the kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fencer_harness import FAST, World, begin_fence
from vmguard.adapters.linux import clock, proc
from vmguard.core.watchdog.events import Level
from vmguard.daemon.pin.fd_copies import FdCopies
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.storage_threads import StorageThreads

pytestmark = pytest.mark.process


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.copy = FdCopies(StorageThreads(made.loop), made.registry, lambda: None).take
    yield made
    made.close()


@pytest.fixture
def held_at_the_kill(world: World) -> list[bool]:
    """Whether we hold a copy of QEMU's own description each time that SIGKILL is about to be sent."""
    kill, held = world.signals.killer, []

    def look_and_kill(vm: GuardedVm) -> set[int]:
        held.append(vm.files[0].guard.has_copy)
        return kill(vm)

    world.signals.killer = look_and_kill
    return held


def pinned_without_copy(world: World) -> GuardedVm:
    vm = world.vm()
    copy = vm.files[0].guard.copy_dropped()
    assert copy is not None
    os.close(copy)
    return vm


def killed(world: World, vm: GuardedVm) -> bool:
    return world.turn(lambda: proc.is_dead(vm.pidfd))


def failing(times: int, copy: Callable[[GuardedVm], None]) -> Callable[[GuardedVm], None]:
    """Fail so often, then do it."""
    tries = iter(range(1000))

    def sometimes(vm: GuardedVm) -> None:
        if next(tries) >= times:
            copy(vm)

    return sometimes


def without_effect(world: World) -> None:
    """Let SIGKILL have no effect, as on a process in state D."""
    world.signals.killer = lambda vm: {vm.pid}


def broken(vm: GuardedVm) -> None:
    raise MemoryError


def test_a_copy_that_is_there_is_kept(world: World, held_at_the_kill: list[bool]) -> None:
    vm = world.vm()
    before = vm.files[0].guard.descriptor
    begin_fence(world, vm)
    assert killed(world, vm)
    assert world.codes[0] == "fence.kill"
    assert (held_at_the_kill, vm.files[0].guard.descriptor) == ([True], before)


def test_a_copy_that_is_missing_is_taken_before_the_first_rung(world: World, held_at_the_kill: list[bool]) -> None:
    vm = pinned_without_copy(world)
    kill, offsets = world.signals.killer, []

    def look_and_kill(vm: GuardedVm) -> set[int]:
        copy = vm.files[0].guard.descriptor
        assert copy is not None
        os.lseek(copy, 77, os.SEEK_SET)
        offsets.append(Path(f"/proc/{vm.pid}/fdinfo/3").read_text().splitlines()[0])
        return kill(vm)

    world.signals.killer = look_and_kill
    begin_fence(world, vm)
    assert world.codes[0] == "fence.kill"
    assert killed(world, vm)
    assert (held_at_the_kill, offsets) == ([True], ["pos:\t77"]), "not QEMU's own description"


def test_a_copy_that_fails_at_first_is_taken_on_its_rung(world: World, held_at_the_kill: list[bool]) -> None:
    vm = pinned_without_copy(world)
    world.copy = failing(3, world.copy)
    begin_fence(world, vm)
    assert (world.codes, held_at_the_kill) == (["fence.copy"], [])
    assert killed(world, vm)
    assert world.codes[:2] == ["fence.copy", "fence.kill"]
    assert held_at_the_kill == [True]
    assert not any(report.level is Level.ERROR for report in world.reports)


def test_while_a_killed_process_hangs_the_copy_is_tried_again(world: World) -> None:
    vm = pinned_without_copy(world)
    take, world.copy = world.copy, broken
    without_effect(world)
    begin_fence(world, vm)
    assert world.turn(lambda: "fence.death" in world.codes)
    assert not vm.files[0].guard.has_copy
    world.copy = take
    assert world.turn(lambda: vm.files[0].guard.has_copy)


@pytest.mark.parametrize("copy", [failing(1000, broken), broken], ids=["in vain", "raises"])
def test_a_copy_that_cannot_be_taken_is_an_alarm_and_the_kill_does_not_wait(
    world: World, held_at_the_kill: list[bool], copy: Callable[[GuardedVm], None]
) -> None:
    vm = pinned_without_copy(world)
    world.copy = copy
    begin = clock.boottime()
    begin_fence(world, vm)
    assert world.turn(lambda: held_at_the_kill)
    assert FAST.copy <= clock.boottime() - begin < FAST.copy + 0.5
    assert killed(world, vm)
    assert held_at_the_kill == [False]
    alarm = next(report for report in world.reports if report.level is Level.ERROR)
    assert alarm.code == "fence.kill"
    assert (
        "ALARM: the descriptors that carry its locks could not be copied: its queued writes can land" in alarm.sentence
    )
    world.ended(vm)
    assert world.turn(lambda: "fence.cut" in world.codes), "what is queued is no longer shielded"
