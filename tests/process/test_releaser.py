"""A claim is let go of on proof; also one that the daemon before this one had begun to let go of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import PIECES, Corner, Rival, open_corner
from vmguard.adapters.linux import ofd, proc
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm

pytestmark = pytest.mark.process


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    yield from open_corner(tmp_path)


def locked(disk: Path) -> tuple[GuardedFile, int]:
    fd = os.open(disk, os.O_RDWR)
    for piece in PIECES:
        ofd.lock(fd, str(disk), ofd.WRITE, piece)
    return GuardedFile(str(disk), EXCLUSIVE, DISK, "", proc.own_key(fd), list(PIECES)), fd


def test_a_release_that_was_interrupted_is_proven_again_and_finished(corner: Corner) -> None:
    disk = corner.disk("web.raw")
    file, fd = locked(disk)
    user = corner.writer(program="dd")
    user.open(disk, os.O_RDONLY)
    vm = GuardedVm("bare", "web", "1", [file], State.RELEASING)
    corner.registry.add(vm)
    corner.lifecycle.resume(vm, {vm.store_name(file): fd})
    assert (vm.state, file.guard.state) == (State.ENDED, GuardState.HELD)
    corner.spin(0.7)
    assert vm.state is State.ENDED, "a process of this host has it open: no proof"
    with pytest.raises(Exception, match="locked"):
        Rival(disk)
    user.end()
    corner.until(lambda: not len(corner.registry))
    assert (vm.state, file.guard.state, file.guard.descriptor) == (State.RELEASING, GuardState.RELEASED, None)
    Rival(disk).let_go()


def test_descriptors_of_a_refused_claim_are_let_go_of(corner: Corner) -> None:
    disk = corner.disk("web.raw")
    file, fd = locked(disk)
    file.guard.received(fd)
    with pytest.raises(Exception, match="locked"):
        Rival(disk)
    corner.lifecycle.discard([file])
    assert file.guard.state is GuardState.RELEASED

    def is_free() -> bool:
        try:
            Rival(disk).let_go()
        except Exception:
            return False
        return True

    corner.until(is_free)
