"""Owner records of deleted files: recognised as another file's, removed, and never without bound."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from vmguard.adapters.linux import statx
from vmguard.adapters.storage import fencing_token, lock_holder, owner_record
from vmguard.adapters.storage.record_sweep import sweep
from vmguard.core.locks.owner_record import SLOT_BYTES, Owner, file_name
from vmguard.core.locks.record_match import doubt, why_another
from vmguard.core.locks.refusal import Holder

FOLDER = ".vmguard"
BORN = datetime.datetime(2026, 11, 20, 13, 0, 0, tzinfo=datetime.UTC).timestamp()


def make_disk(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def record(claimed: str, path: str = "/srv/vm/old.raw") -> Owner:
    return Owner(1, host="alpha", vm="oldvm", path=path, claimed=claimed)


@pytest.mark.parametrize(
    ("claimed", "path", "another"),
    [
        ("2026-11-20T12:59:59Z", "/srv/vm/old.raw", True),
        ("2026-11-20T13:00:00Z", "/srv/vm/old.raw", False),  # renamed after its claim
        ("2026-11-20T12:59:59Z", "/mnt/other/new.raw", False),  # the same name: the clocks may differ
        ("2026-11-20T12:50:00Z", "/mnt/other/new.raw", True),  # the same name was deleted and made again
        ("no time", "/srv/vm/old.raw", False),
    ],
)
def test_a_record_from_before_the_file_was_made_is_another_files(claimed: str, path: str, another: bool) -> None:
    assert bool(why_another(record(claimed, path), "/srv/vm/new.raw", BORN)) is another
    assert why_another(record(claimed, path), "/srv/vm/new.raw", 0.0) == ""


def test_where_nobody_knows_when_a_file_was_made_another_name_is_a_doubt() -> None:
    owner = record("2026-11-20T13:00:00Z")
    assert "/srv/vm/old.raw of VM 'oldvm'" in doubt(owner, "/srv/vm/new.raw", 0.0)
    assert doubt(owner, "/mnt/old.raw", 0.0) == ""
    assert doubt(owner, "/srv/vm/new.raw", BORN) == ""


def claim(disk: Path, minutes_ago: int = 0, inode: int = 0, released: bool = True) -> int:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60 * minutes_ago))
    fields = {"host": "alpha", "vm": "oldvm", "uuid": "1", "boot": "b", "path": str(disk), "claimed": stamp}
    inode = inode or disk.stat().st_ino
    epoch = owner_record.write_claim(str(disk), FOLDER, inode, fields)
    if released:
        fields["released"] = stamp
        owner_record.write_release(str(disk), FOLDER, inode, Owner(epoch, **fields))
    return epoch


def holder(disk: Path) -> Holder:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return lock_holder.describe(str(disk), fd, FOLDER)
    finally:
        os.close(fd)


def test_nobody_is_named_by_the_record_of_a_deleted_file(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "fresh.raw")
    fd = os.open(disk, os.O_RDONLY)
    if not statx.birth_time(fd):
        pytest.skip("this file system does not tell when a file was made")
    os.close(fd)
    claim(disk)
    found = holder(disk)
    assert (found.owner is not None, found.record_problem) == (True, "")  # the control
    (tmp_path / FOLDER / file_name(disk.stat().st_ino)).unlink()
    claim(disk, minutes_ago=10)
    found = holder(disk)
    assert found.owner is None
    assert "that of a deleted file" in found.record_problem


def test_records_of_deleted_disks_are_removed_and_no_others(tmp_path: Path) -> None:
    kept, deleted, used = (make_disk(tmp_path / name) for name in ("kept.raw", "deleted.raw", "used.raw"))
    claim(kept)
    claim(deleted)
    claim(used, released=False)
    numbers = {disk.name: disk.stat().st_ino for disk in (kept, deleted, used)}
    assert sweep(str(kept), FOLDER, numbers["kept.raw"]) == 0
    deleted.unlink()
    used.unlink()  # its VM may still run: the claim stands
    assert sweep(str(kept), FOLDER, 1) == 0, "numbers that do not agree with stat prove nothing"
    assert sweep(str(kept), FOLDER, numbers["kept.raw"]) == 1
    left = set(os.listdir(tmp_path / FOLDER))
    assert left == {file_name(numbers["kept.raw"]), file_name(numbers["used.raw"])}


def test_lists_go_with_the_last_trace_of_their_disks_and_no_sooner(tmp_path: Path) -> None:
    kept, deleted, used = (make_disk(tmp_path / name) for name in ("kept.raw", "deleted.raw", "used.raw"))
    numbers = {disk.name: disk.stat().st_ino for disk in (kept, deleted, used)}
    claim(kept)
    claim(deleted)
    claim(used, released=False)
    for name, inodes in {
        "libvirt-kept": [numbers["kept.raw"], numbers["deleted.raw"]],
        "libvirt-gone": [numbers["deleted.raw"]],
        "libvirt-used": [numbers["used.raw"]],
        "libvirt-bare": [],
    }.items():
        owner_record.list_disks(str(kept), FOLDER, name, inodes or [1 << 40])
    os.symlink(str(numbers["deleted.raw"]), tmp_path / FOLDER / "libvirt-kept.disks.4711")  # a crash
    (tmp_path / FOLDER / "notes.disks.txt").touch()  # nobody's business
    deleted.unlink()
    used.unlink()  # its VM may still run: its record, which a start reads, stands
    assert sweep(str(kept), FOLDER, numbers["kept.raw"]) == 4
    left = {name for name in os.listdir(tmp_path / FOLDER) if "disks" in name}
    assert left == {"libvirt-kept.disks", "libvirt-used.disks", "notes.disks.txt"}


def test_what_strangers_put_beside_the_records_keeps_nothing_from_being_removed(tmp_path: Path) -> None:
    kept, deleted = make_disk(tmp_path / "kept.raw"), make_disk(tmp_path / "deleted.raw")
    number = kept.stat().st_ino
    claim(kept)
    claim(deleted)
    owner_record.list_disks(str(kept), FOLDER, "libvirt-gone", [1 << 40])
    records = tmp_path / FOLDER
    for name in ("1.owner", "a.disks"):
        (records / name).mkdir()
    (records / "2.owner").symlink_to("1.owner")
    os.link(records / file_name(number), records / "3.owner")
    for name in ("\u00b2.owner", "\u0663.owner", ".owner", "-1.owner", "b.disks", "4.owner"):
        (records / name).touch()
    os.symlink("1099511627776,x,\u00b2", records / "c.disks.0123456789abcdef")  # a crash before its rename
    deleted.unlink()
    assert sweep(str(kept), FOLDER, number) == 3
    left = os.listdir(records)
    assert not {"libvirt-gone.disks", "c.disks.0123456789abcdef"} & set(left)
    assert sum(name.endswith(".owner") for name in left) == 9


def test_a_record_does_not_grow_and_its_size_tells_the_epoch(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "web.raw")
    for _ in range(400):
        last = claim(disk)
    path = tmp_path / FOLDER / file_name(disk.stat().st_ino)
    status = path.stat()
    assert (last, status.st_size) == (400, 400 * SLOT_BYTES)
    assert fencing_token.read_token(str(path)).epoch == 400
    assert status.st_blocks * 512 <= 64 * SLOT_BYTES, "400 KiB without holes"
    claims = owner_record.read_claims(str(disk), FOLDER, disk.stat().st_ino, 9)
    assert [owner.epoch for owner in claims] == list(range(400, 391, -1))
