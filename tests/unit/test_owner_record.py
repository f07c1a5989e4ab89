"""The owner record: written beside the disk, readable after any accident."""

import binascii
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.adapters.storage import owner_record
from vmguard.core.locks.owner_record import SLOT_BYTES, Owner, next_epoch, parse_slot, slot

FIELDS = {
    "host": "hyp-a",
    "machine": "0123456789abcdef",
    "boot": "b-1",
    "hypervisor": "libvirt",
    "vm": "web",
    "uuid": "11111111-2222-3333-4444-555555555555",
    "path": "/srv/vm/web.qcow2",
    "claimed": "2026-11-20T13:01:22Z",
    "version": "0.1.0",
}


@given(st.integers(1, 10**9), st.text(max_size=300), st.text(max_size=5000))
def test_any_names_fit_into_a_slot_and_come_back(epoch: int, vm: str, path: str) -> None:
    data = slot(Owner(epoch, vm=vm, path=path, host="a"))
    assert len(data) == SLOT_BYTES
    owner = parse_slot(data)
    assert owner is not None
    assert owner.epoch == epoch
    assert vm.startswith(owner.vm)
    assert path.startswith(owner.path)


@given(st.integers(1, SLOT_BYTES - 1))
def test_a_torn_slot_is_recognised(cut: int) -> None:
    data = slot(Owner(7, **FIELDS))
    assert parse_slot(data[:cut] + b"\0" * (SLOT_BYTES - cut)) is None


@given(st.binary(max_size=2 * SLOT_BYTES))
def test_garbage_is_no_claim(data: bytes) -> None:
    assert parse_slot(data) is None


def sealed(body: str) -> bytes:
    """A slot with the right checksum around whatever somebody wrote."""
    closing = f',"check":"{binascii.crc32(body.encode()):08x}"}}\n'
    return (body + " " * (SLOT_BYTES - len(body) - len(closing)) + closing).encode()


@pytest.mark.parametrize("depth", [1, 100, 400, 480])
def test_a_field_that_is_no_text_says_nothing(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    owner = parse_slot(sealed('{"epoch":3,"host":' + nested + ',"vm":7,"uuid":"u"'))
    assert owner is not None
    assert (owner.epoch, owner.host, owner.vm, owner.uuid) == (3, "", "", "u")


@pytest.mark.parametrize("body", ['{"epoch":3,"host":' + "[" * 980, '{"epoch":' + "[" * 480 + "]" * 480, '{"epoch":3,'])
def test_a_right_checksum_does_not_make_a_claim(body: str) -> None:
    assert parse_slot(sealed(body)) is None
    assert parse_slot(sealed('{"epoch":3,"host":"a"')) is not None  # negative control: the seal is right


def test_a_slot_is_a_line_that_a_person_can_read() -> None:
    data = slot(Owner(1, **FIELDS))
    assert data.startswith(b'{"epoch":1,"host":"hyp-a"')
    assert data.count(b"\n") == 1


def test_each_claim_raises_the_epoch(tmp_path: Path) -> None:
    disk = str(tmp_path / "web.qcow2")
    assert owner_record.read_owner(disk, ".vmguard", 42) is None
    assert [owner_record.write_claim(disk, ".vmguard", 42, FIELDS) for _ in range(3)] == [1, 2, 3]
    owner = owner_record.read_owner(disk, ".vmguard", 42)
    assert owner is not None
    assert (owner.epoch, owner.host, owner.vm, owner.released) == (3, "hyp-a", "web", "")


def test_a_release_is_marked_in_its_own_slot(tmp_path: Path) -> None:
    disk = str(tmp_path / "web.qcow2")
    owner_record.write_claim(disk, ".vmguard", 42, FIELDS)
    owner_record.write_release(disk, ".vmguard", 42, Owner(1, **{**FIELDS, "released": "2026-11-20T14:00:00Z"}))
    owner = owner_record.read_owner(disk, ".vmguard", 42)
    assert owner is not None
    assert owner.released == "2026-11-20T14:00:00Z"
    assert owner_record.write_claim(disk, ".vmguard", 42, FIELDS) == 2


def test_a_late_release_does_not_touch_the_next_claim(tmp_path: Path) -> None:
    disk = str(tmp_path / "web.qcow2")
    owner_record.write_claim(disk, ".vmguard", 42, FIELDS)
    owner_record.write_claim(disk, ".vmguard", 42, {**FIELDS, "host": "hyp-b", "boot": "b-2"})
    with pytest.raises(OSError, match="another claim"):
        owner_record.write_release(disk, ".vmguard", 42, Owner(2, **{**FIELDS, "released": "2026-11-20T14:00:00Z"}))
    owner = owner_record.read_owner(disk, ".vmguard", 42)
    assert owner is not None
    assert (owner.host, owner.released) == ("hyp-b", "")


def test_after_a_torn_write_the_claim_before_it_speaks_and_the_epoch_still_rises(tmp_path: Path) -> None:
    disk = str(tmp_path / "web.qcow2")
    owner_record.write_claim(disk, ".vmguard", 42, FIELDS)
    path = tmp_path / ".vmguard" / "42.owner"
    path.write_bytes(path.read_bytes() + b'{"epoch":2,"host":"hy')
    owner = owner_record.read_owner(disk, ".vmguard", 42)
    assert owner is not None
    assert owner.epoch == 1
    assert owner_record.write_claim(disk, ".vmguard", 42, FIELDS) == 3
    assert next_epoch(0) == 1


def test_a_planted_symlink_does_not_lead_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    share = tmp_path / "share"
    share.mkdir()
    (share / ".vmguard").symlink_to(elsewhere)
    with pytest.raises(OSError):
        owner_record.write_claim(str(share / "disk"), ".vmguard", 1, FIELDS)
    (share / ".vmguard").unlink()
    (share / ".vmguard").mkdir()
    (share / ".vmguard" / "1.owner").symlink_to(elsewhere / "victim")
    with pytest.raises(OSError):
        owner_record.write_claim(str(share / "disk"), ".vmguard", 1, FIELDS)
    assert list(elsewhere.iterdir()) == []
