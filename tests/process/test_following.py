"""What a running VM opens and closes is followed also where that is easily missed: see tests/process/test_daemon.py."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, locks_on, make_disk
from vmguard.adapters.linux import ofd, proc
from vmguard.errors import LockConflict

pytestmark = pytest.mark.process


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    (tmp_path / "guard").mkdir()
    with Guard(tmp_path / "guard") as guard:
        yield guard


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm("web", [make_disk(tmp_path / f"disk{number}.raw") for number in range(2)])


def started(guard: Guard, vm: Vm, locking: bool = True) -> FakeQemu:
    """Claimed through the hook, running and pinned."""
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    qemu = FakeQemu(guard.libvirt_dir, vm, locking=locking)
    wanted = {str(disk): "pinned" for disk in vm.disks}
    assert eventually(lambda: guard.guards(vm.name) == wanted), guard.guards(vm.name)
    return qemu


def shown(guard: Guard, disk: Path) -> dict[str, Any]:
    """What the table has of a disk."""
    [file] = [file for vm in guard.status() for file in vm["files"] if file["path"] == str(disk)]
    return dict(file)


def rival_gets(disk: Path) -> bool:
    """Whether another claim of the whole file would succeed now."""
    with disk.open("r+b") as stream:
        try:
            ofd.lock(stream.fileno(), str(disk), ofd.WRITE, (0, 0))
        except LockConflict:
            return False
    return True


def test_what_is_closed_while_there_is_no_daemon_is_let_go_by_the_next_one(
    guard: Guard, vm: Vm, tmp_path: Path
) -> None:
    """A disk of the claim, and one that was plugged in."""
    overlay = make_disk(tmp_path / "overlay.raw")
    with started(guard, vm) as qemu:
        qemu.open(overlay)
        assert eventually(lambda: guard.guards(vm.name).get(str(overlay)) == "pinned", 2)
        guard.kill()
        for disk in (vm.disks[0], overlay):
            qemu.close(disk)
        guard.start()
        assert eventually(lambda: guard.guards(vm.name) == {str(vm.disks[1]): "pinned"}), guard.guards(vm.name)
        assert rival_gets(vm.disks[0])
        assert rival_gets(overlay)
        assert not rival_gets(vm.disks[1])


@pytest.mark.parametrize("locking", [True, False])
def test_a_descriptor_that_is_opened_anew_twice_and_has_its_old_number_again_gets_its_lock_back(
    guard: Guard, vm: Vm, locking: bool
) -> None:
    """Neither number nor link of any descriptor has changed; the lock ended with the first one."""
    disk = vm.disks[0]
    with started(guard, vm, locking) as qemu:
        number = qemu.reopen(disk)
        for _ in range(3):
            assert eventually(lambda: has_lock(guard, qemu.pid, disk), 2), locks_on(disk)
            time.sleep(1.2)  # nothing is looked at closely any more
            qemu.reopen(disk)
            assert qemu.reopen(disk) == number
        assert eventually(lambda: has_lock(guard, qemu.pid, disk), 2), locks_on(disk)


def has_lock(guard: Guard, pid: int, disk: Path) -> bool:
    """Whether the process's own descriptor of the disk carries the lock that the table shows."""
    file = shown(guard, disk)
    found = [user for user in proc.open_files(pid) if user.path == str(disk)]
    return file["guard"] == "pinned" and [
        f"descriptor {user.fd} of pid {pid}" for user in found if any(write for write, _, _ in user.locks)
    ] == [file["through"]]


def test_a_reader_elsewhere_does_not_make_a_claimed_disk_shareable(guard: Guard, vm: Vm) -> None:
    """As at the end of a commit: QEMU opens its backing file for writing again, and somebody reads it."""
    disk = vm.disks[0]
    with started(guard, vm) as qemu:
        qemu.reopen(disk, os.O_RDONLY)
        assert eventually(lambda: shown(guard, disk)["mode"] == "shared", 2)
        with disk.open("rb") as reader:
            ofd.lock(reader.fileno(), str(disk), ofd.READ, (300, 0))
            qemu.reopen(disk, os.O_RDWR)
            assert eventually(lambda: "locked for reading" in shown(guard, disk)["weaker"], 3)
            time.sleep(0.5)
            assert "locked for reading" in shown(guard, disk)["weaker"]
        assert eventually(lambda: shown(guard, disk)["mode"] == "exclusive" and not shown(guard, disk)["weaker"], 8), (
            guard.status()
        )
        assert {lock.exclusive for lock in locks_on(disk) if lock.start >= 300} == {True}
