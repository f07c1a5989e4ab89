"""A running VM's disk that is deleted, or replaced by rename: an alarm on its host, and no second start elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.qemu_img import overlay
from vmguard.adapters.storage import owner_record

pytestmark = pytest.mark.process

Hosts = tuple[Guard, Guard, Vm, FakeQemu]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """The VM runs on the first host."""
    for name in "abd":
        (tmp_path / name).mkdir()
    quick = {"slow_round": "10s"}
    vm = Vm("web", [make_disk(tmp_path / "d/web.raw")])
    with (
        Guard(tmp_path / "a", watch=quick) as alpha,
        Guard(tmp_path / "b", hosts={"name": "beta"}) as beta,
    ):
        assert alpha.hook("prepare", vm.xml()).status == 0
        qemu = FakeQemu(alpha.libvirt_dir, vm)
        assert eventually(lambda: "pinned" in alpha.guards("web").values(), 10), alpha.log
        assert eventually(lambda: any((tmp_path / "d/.vmguard").glob("*.disks")))
        yield alpha, beta, vm, qemu
        qemu.kill()


def replace(vm: Vm) -> int:
    """Put another file in the disk's place, as a restore does; return the old one's inode."""
    disk = vm.disks[0]
    old = disk.stat().st_ino
    os.rename(make_disk(disk.parent / "restored.tmp"), disk)
    return old


def codes(guard: Guard) -> list[str]:
    path = guard.run_dir / "history.jsonl"
    return [json.loads(line)["code"] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_holder_sees_it_at_once_when_asked_and_by_itself_within_a_slow_round(hosts: Hosts) -> None:
    alpha, _, vm, _ = hosts
    assert alpha.vmguard("check", "web").status == 0  # the control
    replace(vm)
    seen = alpha.vmguard("check", "web")
    assert (seen.status, "is another file now" in seen.out) == (2, True)
    assert eventually(lambda: "vm.disk-replaced" in codes(alpha), 25), alpha.log
    assert alpha.vmguard("status").status == 2


def test_a_deleted_disk_is_an_alarm(hosts: Hosts) -> None:
    alpha, _, vm, _ = hosts
    vm.disks[0].unlink()
    assert eventually(lambda: "vm.disk-replaced" in codes(alpha), 25), alpha.log
    seen = alpha.vmguard("check", "web")
    assert (seen.status, "was deleted" in seen.out) == (2, True)


def test_another_host_does_not_start_it_on_the_new_file(hosts: Hosts) -> None:
    alpha, beta, vm, qemu = hosts
    old = replace(vm)
    for _ in range(2):  # a refused start leaves nothing that lets the next one pass
        refused = beta.hook("prepare", vm.xml())
        assert refused.status == 1
        assert (
            f"host alpha claimed it on another file, which was replaced since\n  replaced : {vm.disks[0]}"
            in refused.err
        )
        assert f"rm {vm.disks[0].parent}/.vmguard/{old}.owner" in refused.err
        assert eventually(lambda: beta.nothing_left(*vm.disks)), beta.leftovers(*vm.disks)
    other = Vm("other", vm.disks)
    assert beta.hook("prepare", other.xml(), name="other").status == 0, "another VM's id: the lock alone decides"
    beta.hook("release", other.xml(), name="other", words=("end", "-"))
    assert eventually(lambda: not beta.states(), 10)
    qemu.kill()
    assert eventually(lambda: not alpha.states(), 10), alpha.log
    assert eventually(lambda: beta.hook("prepare", vm.xml()).status == 0, 20), (
        "its claim was released on the first host"
    )


def test_a_dead_host_is_no_obstacle_for_ever(hosts: Hosts) -> None:
    alpha, beta, vm, qemu = hosts
    old = replace(vm)
    alpha.kill()  # it never releases its record
    qemu.kill()
    assert beta.hook("prepare", vm.xml()).status == 1
    (vm.disks[0].parent / ".vmguard" / f"{old}.owner").unlink()  # what the refusal says
    assert beta.hook("prepare", vm.xml()).status == 0


def test_a_file_that_was_only_renamed_away_tells_by_its_lock(hosts: Hosts) -> None:
    alpha, beta, vm, qemu = hosts
    disk = vm.disks[0]
    disk.rename(disk.parent / "web.old")
    make_disk(disk)
    assert beta.hook("prepare", vm.xml()).status == 1
    alpha.kill()
    qemu.kill()
    assert eventually(lambda: beta.hook("prepare", vm.xml()).status == 0, 10), "its lock is gone, so nobody runs it"


def test_a_disk_that_was_taken_out_of_the_vm_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    both = Vm("web", [make_disk(tmp_path / "one.raw"), make_disk(tmp_path / "two.raw")])
    one = Vm("web", both.disks[:1], both.uuid)
    (tmp_path / "b").mkdir()
    with Guard(tmp_path / "a") as alpha, Guard(tmp_path / "b", hosts={"name": "beta"}) as beta:
        assert alpha.hook("prepare", both.xml()).status == 0
        assert eventually(lambda: any((tmp_path / ".vmguard").glob("*.disks")))
        alpha.kill()  # a crash: two records that were never released
        both.disks[1].unlink()
        assert beta.hook("prepare", one.xml()).status == 0


def listed(disk: Path) -> set[str]:
    """Return what the VM's list in the disk's folder has."""
    lists = list((disk.parent / ".vmguard").glob("*.disks"))
    return {word for path in lists for word in os.readlink(path).split(",")}


def replaced_elsewhere(beta: Guard, vm: Vm, disk: Path) -> str:
    """Put another file in a disk's place and start the VM with it on the second host; return the refusal."""
    os.rename(make_disk(disk.parent / "restored.tmp"), disk)
    refused = beta.hook("prepare", Vm("web", [disk], vm.uuid).xml())
    assert refused.status == 1, "it runs twice"
    return refused.err


def test_a_disk_plugged_in_later_is_one_of_its_disks(hosts: Hosts, tmp_path: Path) -> None:
    alpha, beta, vm, qemu = hosts
    (tmp_path / "d/e").mkdir()
    plugged = make_disk(tmp_path / "d/e/plugged.raw")
    qemu.open(plugged)
    assert eventually(lambda: listed(plugged) == {str(plugged.stat().st_ino)}, 5), alpha.log
    assert f"replaced : {plugged}" in replaced_elsewhere(beta, vm, plugged)


def test_a_snapshot_makes_the_overlay_its_disk(hosts: Hosts, tmp_path: Path) -> None:
    alpha, beta, vm, qemu = hosts
    base, top = vm.disks[0], make_disk(tmp_path / "d/web.snap")
    qemu.open(top)
    qemu.reopen(base, os.O_RDONLY)
    assert eventually(lambda: str(top.stat().st_ino) in listed(base), 5), alpha.log
    assert f"replaced : {top}" in replaced_elsewhere(beta, vm, top)
    qemu.kill()
    assert eventually(lambda: is_released(base), 10), "a disk below its snapshot keeps its claim for ever"


def is_released(disk: Path) -> bool:
    last = owner_record.read_owner(str(disk), ".vmguard", disk.stat().st_ino)
    return last is not None and bool(last.released)


def test_an_image_that_a_commit_makes_its_disk_has_its_record(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    base = make_disk(tmp_path / "base.raw")
    top = overlay(tmp_path / "web.qcow2", str(base), "raw")
    vm = Vm("web", [top])
    xml = vm.xml().replace(b"type='raw'", b"type='qcow2'")
    with Guard(tmp_path / "a") as alpha, Guard(tmp_path / "b", hosts={"name": "beta"}) as beta:
        assert alpha.hook("prepare", xml).status == 0
        with FakeQemu(alpha.libvirt_dir, vm) as qemu:
            qemu.open(base, os.O_RDONLY)
            assert eventually(lambda: set(alpha.guards("web").values()) == {"pinned"}, 10), alpha.log
            qemu.reopen(base)
            qemu.close(top)
            assert eventually(lambda: listed(base) == {str(base.stat().st_ino)}, 5), alpha.log
            assert f"replaced : {base}" in replaced_elsewhere(beta, vm, base)
