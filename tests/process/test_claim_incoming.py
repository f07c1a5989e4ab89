"""The two ends of a live migration: what the target's hook takes of the disks, and how the source leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_migration_target import PIECES, Source
from tests.support.daemon_harness import Corner, Rival, open_corner
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, make_disk
from vmguard.adapters.linux import ofd, proc
from vmguard.adapters.storage import owner_record
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.owner_record import TEXT_FIELDS, Owner
from vmguard.core.locks.plan import DISK, EXCLUSIVE, SHARED, PlannedFile
from vmguard.core.locks.ranges import OUTGOING_MARK, RESERVATION
from vmguard.errors import LockConflict
from vmguard.hook import claim_incoming as hook
from vmguard.hook.claim_on_share import ClaimedFile
from vmguard.protocol.messages import ClaimPolicy, ClaimSettings, HostIdentity, RecordOptions

pytestmark = pytest.mark.process

#: of the owner records
FOLDER = ".vmguard"


# -- the hook's side ---------------------------------------------------------------------------------------------------


class Asked:
    """A claim's files, and whom the owner record names."""

    name = "web"
    uuid = "1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: whom the records of the files that are made from now on name
        self.owner: Owner | None = Owner(3, host="hyp-a.example", machine="x", boot="y", uuid="1")

    def file(self, name: str, mode: str = EXCLUSIVE) -> ClaimedFile:
        path = self.folder / name
        path.write_bytes(bytes(4096))
        if self.owner is not None:
            fields = {name: getattr(self.owner, name) for name in TEXT_FIELDS}
            owner_record.write_claim(str(path), FOLDER, path.stat().st_ino, fields)
        fd = os.open(path, os.O_RDWR)
        return ClaimedFile(PlannedFile(str(path), mode, DISK, ""), fd, proc.own_key(fd), PIECES)

    def lock(self, *files: ClaimedFile, expected: str = "") -> str:
        settings = ClaimSettings(
            now="",
            wait=0.0,
            mount_wait=0.0,
            timeout=5.0,
            excluded_ranges=[],
            policy=ClaimPolicy("warn", "lock", {}),
            record=RecordOptions(FOLDER, 5.0),
            identity=HostIdentity("here", "m", "b", ""),
            as_users=[],
            incoming=expected,
        )
        return hook.lock(self, list(files), settings, self)  # type: ignore[arg-type]

    def stage(self, *_: object) -> None:
        """As the hook's reporter."""


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_copied_storage_is_locked_as_at_any_start_and_the_rest_reserved(asked: Asked) -> None:
    copied, common = asked.file("copied"), asked.file("common")
    source = Source(asked.folder / "common")
    assert asked.lock(copied, common, expected="hyp-a") == "hyp-a.example"
    assert (copied.reserved, common.reserved) == (False, True)
    with pytest.raises(LockConflict):
        Rival(asked.folder / "copied")
    source.let_go()
    with pytest.raises(LockConflict):
        Rival(asked.folder / "common")


def test_with_nothing_locked_it_is_an_ordinary_claim(asked: Asked) -> None:
    assert asked.lock(asked.file("one")) == ""


@pytest.mark.parametrize(
    "owner",
    [
        Owner(3, host="hyp-c", machine="x", boot="y", uuid="1"),  # expected from elsewhere
        Owner(3, host="hyp-a", machine="x", boot="y", uuid="2"),  # another VM has the disk
        Owner(3, host="here", machine="m", boot="b", uuid="1"),  # this host itself
    ],
)
def test_a_disk_that_somebody_else_has_is_refused(asked: Asked, owner: Owner) -> None:
    asked.owner = owner
    file = asked.file("one")
    source = Source(asked.folder / "one")
    with pytest.raises(LockConflict):
        asked.lock(file, expected="hyp-a")
    source.let_go()


def test_a_holder_without_a_record_may_be_the_source(asked: Asked) -> None:
    asked.owner = None
    file = asked.file("one")
    source = Source(asked.folder / "one")
    assert asked.lock(file) == "another host"
    source.let_go()


def test_a_backing_file_that_somebody_writes_to_is_refused(asked: Asked) -> None:
    file = asked.file("base", SHARED)
    source = Source(asked.folder / "base")
    with pytest.raises(LockConflict):
        asked.lock(file)
    source.let_go()


def test_two_hosts_cannot_both_wait_for_one_disk(asked: Asked) -> None:
    first, second = asked.file("one"), asked.file("one")
    source = Source(asked.folder / "one")
    asked.lock(first)
    with pytest.raises(LockConflict):
        asked.lock(second)
    source.let_go()


# -- the source --------------------------------------------------------------------------------------------------------


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    (tmp_path / "guard").mkdir()
    with Guard(tmp_path / "guard") as guard:
        yield guard


def test_the_source_leaves_the_disk_to_the_target_and_takes_it_back_when_the_migration_fails(
    guard: Guard, tmp_path: Path
) -> None:
    """QEMU opens its disks read-only at the switch, and to write again when it has to go on after all."""
    vm = Vm("web", [make_disk(tmp_path / "disk.raw")])
    (disk,) = vm.disks
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    target = os.open(disk, os.O_RDWR)
    with FakeQemu(guard.libvirt_dir, vm) as qemu:
        assert eventually(lambda: guard.guards(vm.name) == {str(disk): "pinned"})
        ofd.lock(target, str(disk), ofd.WRITE, RESERVATION)
        qemu.reopen(disk, os.O_RDONLY)
        assert eventually(lambda: guard.guards(vm.name) == {str(disk): "outgoing"})
        for piece in PIECES:
            ofd.lock(target, str(disk), ofd.WRITE, piece)
            ofd.unlock(target, piece)
            with pytest.raises(LockConflict):
                ofd.lock(target, str(disk), ofd.WRITE, OUTGOING_MARK)
        qemu.reopen(disk, os.O_RDWR)
        assert eventually(lambda: guard.guards(vm.name) == {str(disk): "pinned"}, 2.0)
        ofd.lock(target, str(disk), ofd.WRITE, OUTGOING_MARK)
    os.close(target)


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    yield from open_corner(tmp_path)


def test_a_source_that_was_not_looked_at_at_the_switch_has_left_the_disk_all_the_same(corner: Corner) -> None:
    """Its daemon was late, and the target has the disk already: it must not be said to be guarded here."""
    disk = corner.disk("web.raw")
    qemu = corner.writer("-name", "web")
    qemu.open(disk, locks=(100,))
    corner.until(corner.pinned)
    qemu.close(disk)
    qemu.open(disk, os.O_RDONLY)
    target = Source(disk)
    corner.until(lambda: corner.vm.files[0].guard.state is GuardState.OUTGOING, counting=False)
    assert corner.vm.state is State.RUNNING
    target.let_go()
    qemu.close(disk)
    qemu.open(disk, locks=(100,))  # the migration failed after all
    corner.until(corner.pinned, 2.0, counting=False)


def test_negative_control_whoever_writes_on_has_not_left_its_disk(corner: Corner) -> None:
    disk = corner.disk("web.raw")
    qemu = corner.writer("-name", "web")
    qemu.open(disk, locks=(100,))
    corner.until(corner.pinned)
    qemu.close(disk)
    qemu.open(disk)
    target = Source(disk)
    corner.until(lambda: corner.vm.state is State.CONFLICT, counting=False)
    assert corner.vm.files[0].guard.state is GuardState.CONFLICT
    target.let_go()


def test_the_source_names_the_target_once_that_has_written_itself_into_the_owner_record(
    guard: Guard, tmp_path: Path
) -> None:
    vm = Vm("web", [make_disk(tmp_path / "disk.raw")])
    (disk,) = vm.disks
    inode = disk.stat().st_ino

    def summary() -> str:
        found: dict[str, str] = json.loads(guard.vmguard("check", vm.name, "--json").out)
        return found["summary"]

    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    target = os.open(disk, os.O_RDWR)
    with FakeQemu(guard.libvirt_dir, vm) as qemu:
        assert eventually(lambda: guard.guards(vm.name) == {str(disk): "pinned"})
        ofd.lock(target, str(disk), ofd.WRITE, RESERVATION)
        qemu.reopen(disk, os.O_RDONLY)
        assert eventually(lambda: guard.guards(vm.name) == {str(disk): "outgoing"})
        assert summary() == "outgoing to another host"
        about = {"host": "hyp-b", "boot": "another", "vm": vm.name}
        owner_record.write_claim(str(disk), ".vmguard", inode, {**about, "uuid": "somebody-else"})
        assert summary() == "outgoing to another host"
        owner_record.write_claim(str(disk), ".vmguard", inode, {**about, "uuid": vm.uuid})
        assert summary() == "outgoing to hyp-b"
    os.close(target)


def test_negative_control_without_a_target_the_source_keeps_it_for_reading(guard: Guard, tmp_path: Path) -> None:
    vm = Vm("web", [make_disk(tmp_path / "disk.raw")])
    (disk,) = vm.disks
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    with FakeQemu(guard.libvirt_dir, vm) as qemu:
        assert eventually(lambda: guard.guards(vm.name) == {str(disk): "pinned"})
        qemu.reopen(disk, os.O_RDONLY)
        assert eventually(lambda: [file["mode"] for file in guard.status()[0]["files"]] == [SHARED])
        with pytest.raises(LockConflict):
            Source(disk)
