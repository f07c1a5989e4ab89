"""Descriptors that systemd kept and no state file knows: they find their VM again, and no lock outlives it."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import PIECES, Corner, Rival, Writer, open_corner
from vmguard.adapters.linux import ofd, pidfd
from vmguard.core import LIBVIRT
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import GuardState, Origin
from vmguard.core.locks.ranges import WHOLE
from vmguard.daemon.claim import fdstore_recovery
from vmguard.daemon.registry.guarded_vm import GuardedVm

pytestmark = pytest.mark.process


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    yield from open_corner(tmp_path)


def claimed(path: Path, kind: int = ofd.WRITE) -> int:
    """What a hook passes to the daemon, and the daemon to systemd."""
    fd = os.open(path, os.O_RDWR)
    for piece in PIECES:
        ofd.lock(fd, str(path), kind, piece)
    return fd


def copied(writer: Writer, path: Path) -> int:
    """Of the writer's own descriptor, as the daemon before this one had it."""
    folder = Path(f"/proc/{writer.pid}/fd")
    [number] = [int(link.name) for link in folder.iterdir() if os.readlink(link) == str(path)]
    process = os.pidfd_open(writer.pid)
    try:
        return pidfd.copy_descriptor(process, number)
    finally:
        os.close(process)


def name(owner: str, fd: int) -> str:
    status = os.fstat(fd)
    return f"{owner}.{status.st_dev:x}.{status.st_ino}"


def take_in(corner: Corner, stored: dict[str, int]) -> list[GuardedVm]:
    """As the daemon does at its start."""
    made = fdstore_recovery.take_in(stored, corner.registry, lambda _: PIECES, corner.lifecycle.timing.run_dirs)
    for vm in corner.registry:
        corner.lifecycle.resume(vm, stored)
    return made


def test_a_claim_that_nobody_remembers_is_pinned_when_its_vm_comes(corner: Corner) -> None:
    disk, identity = corner.disk("web.raw"), str(uuid.uuid4())
    fd = claimed(disk)
    stored = {name(f"{LIBVIRT}-{identity}", fd): fd}
    [vm] = take_in(corner, stored)
    assert stored == {}
    assert (vm.state, [file.guard.state for file in vm.files]) == (State.CLAIMED, [GuardState.HELD])
    corner.spin(0.5)
    assert vm.state is State.CLAIMED
    writer = corner.writer("-name", "guest=web", "-uuid", identity)
    writer.open(disk)
    corner.until(corner.pinned)
    assert corner.vm is vm
    assert (vm.name, vm.state, vm.pid, vm.held_for_person) == ("web", State.RUNNING, writer.pid, "")
    with pytest.raises(Exception, match="locked"):
        Rival(disk)
    writer.end()
    corner.until(lambda: not len(corner.registry))
    Rival(disk).let_go()


def test_control_left_alone_it_looks_like_a_rival_and_stops_its_own_vm(corner: Corner) -> None:
    disk, identity = corner.disk("web.raw"), str(uuid.uuid4())
    fd = claimed(disk)
    corner.writer("-name", "guest=web", "-uuid", identity).open(disk)
    corner.until(lambda: len(corner.registry) and corner.vm.held_for_person)
    os.close(fd)


def test_a_claim_whose_vm_never_comes_is_let_go_of(corner: Corner) -> None:
    disk = corner.disk("web.raw")
    fd = claimed(disk)
    [vm] = take_in(corner, {name(f"{LIBVIRT}-{uuid.uuid4()}", fd): fd})
    with pytest.raises(Exception, match="locked"):
        Rival(disk)
    vm.deadline = 0.0
    corner.until(lambda: not len(corner.registry))
    Rival(disk).let_go()


@pytest.mark.parametrize("owner", ["libvirt-{}", "proxmox-101", "bare-0d8a2c0c-76ab-5d58-9a63-3b9e4f4b2f05"])
def test_a_running_vm_is_known_again_by_the_disk_that_it_has(corner: Corner, owner: str) -> None:
    disk, identity = corner.disk("web.raw"), str(uuid.uuid4())
    ours = ("-id", "101", "-pidfile", f"{corner.folder}/101.pid") if owner == "proxmox-101" else ()
    writer = corner.writer("-name", "guest=web", "-uuid", identity, *ours)
    writer.open(disk)
    copy = copied(writer, disk)
    for piece in PIECES:
        ofd.lock(copy, str(disk), ofd.WRITE, piece)
    [vm] = take_in(corner, {name(owner.format(identity), copy): copy})
    corner.until(corner.pinned)
    assert (vm.name, vm.state, vm.pid, vm.held_for_person) == ("web", State.RUNNING, writer.pid, "")


def test_a_file_that_its_state_file_does_not_have_yet_goes_to_its_vm(corner: Corner) -> None:
    disk, more = corner.disk("web.raw"), corner.disk("more.raw")
    fds = [claimed(disk), claimed(more, ofd.READ)]
    identity = str(uuid.uuid4())
    stored = {name(f"{LIBVIRT}-{identity}", fd): fd for fd in fds}
    first, second = ({name: fd} for name, fd in stored.items())
    [vm] = take_in(corner, first)
    assert fdstore_recovery.take_in(second, corner.registry, lambda _: PIECES, corner.lifecycle.timing.run_dirs) == []
    assert [(os.path.basename(file.path), file.mode, file.guard.origin) for file in vm.files] == [
        ("web.raw", "exclusive", Origin.EXCLUSIVE_CLAIM),
        ("more.raw", "shared", Origin.FOUND),
    ]


def test_what_is_not_locked_or_not_ours_is_left_alone(corner: Corner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    fd = claimed(corner.disk("web.raw"))
    other = os.open(corner.disk("other.raw"), os.O_RDWR)
    stored = {
        "stranger-1.1f.2": fd,
        "libvirt-": fd,
        "vmguard.socket": fd,
        name(f"{LIBVIRT}-{uuid.uuid4()}", other): fd,  # another file than the name says
        name(f"{LIBVIRT}-{uuid.uuid4()}", other).replace("libvirt", "bare"): other,  # let go of, and not yet forgotten
    }
    before = dict(stored)
    assert take_in(corner, stored) == []
    assert stored == before
    assert len(corner.registry) == 0
    ofd.unlock(fd, WHOLE)
    for number in (fd, other):
        os.close(number)
