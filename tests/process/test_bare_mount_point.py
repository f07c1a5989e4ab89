"""A whole start while a share of fstab is not mounted, and an old copy of the disk lies on the bare folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.guard import Guard, Vm, locks_on, make_disk
from tests.support.namespaces import Space
from tests.support.qemu_img import overlay

pytestmark = pytest.mark.process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vm").mkdir()
    return tmp_path / "vm"


def start(tmp_path: Path, vm: Vm, script: str) -> tuple[int, str]:
    """Start a VM in a namespace with a private /etc/fstab; return the hook's status and words."""
    shutil.copy("/etc/fstab", tmp_path / "fstab")
    with (tmp_path / "fstab").open("a") as stream:
        stream.write(f"\nnas:/vm {tmp_path}/vm nfs4 vers=4.2,hard 0 0\n")
    (tmp_path / "guard").mkdir(exist_ok=True)
    with Space(script) as space, Guard(tmp_path / "guard", prefix=space.prefix) as guard:
        answer = guard.hook("prepare", vm.xml())
        if answer.status:
            assert locks_on(*vm.disks) == []
        (guard.libvirt_dir / f"{vm.name}.xml").write_bytes(vm.xml())
        check = guard.vmguard("check", vm.name)
        assert ("lies on the bare folder" in check.out + check.err) == bool(answer.status)
        assert check.status or not answer.status
        guard.hook("release", vm.xml())
    return answer.status, answer.err


def test_the_disk_itself_and_a_backing_image_there_are_refused(tmp_path: Path, folder: Path) -> None:
    private = f"mount --bind {tmp_path}/fstab /etc/fstab"
    disk = make_disk(folder / "web.raw")
    for vm in (Vm("web", [disk]), Vm("top", [make_disk(tmp_path / "local.raw"), disk])):
        status, words = start(tmp_path, vm, private)
        assert status == 1
        assert f"{disk} lies below {folder}, where nas:/vm is not mounted (/etc/fstab)" in words
        assert f"do now   : mount {folder}" in words
    assert start(tmp_path, Vm("web", [disk]), "true")[0] == 0, "negative control: fstab knows nothing of it"
    something = f"{private}; mount --bind {folder} {folder}"
    assert start(tmp_path, Vm("web", [disk]), something)[0] == 0, "negative control: something is mounted there"


def test_a_backing_image_there_is_refused_once_it_is_known(tmp_path: Path, folder: Path) -> None:
    base = make_disk(folder / "base.raw")
    top = overlay(tmp_path / "top.qcow2", str(base), "raw")
    vm = Vm("web", [top])
    xml = vm.xml().replace(b"type='raw'", b"type='qcow2'")
    vm.xml = lambda inside="": xml  # type: ignore[method-assign]
    status, words = start(tmp_path, vm, f"mount --bind {tmp_path}/fstab /etc/fstab")
    assert status == 1
    assert f"{base} lies below {folder}" in words
    assert start(tmp_path, vm, "true")[0] == 0, "negative control"


@pytest.mark.parametrize(
    ("policy", "device", "status"), [("optional", "cdrom", 0), ("mandatory", "cdrom", 1), ("optional", "disk", 1)]
)
def test_a_medium_that_may_be_missing_is_not_waited_for(
    tmp_path: Path, folder: Path, policy: str, device: str, status: int
) -> None:
    vm = Vm("web", [make_disk(tmp_path / "local.raw")])
    if status:
        make_disk(folder / "x.iso")
    medium = (
        f"<disk type='file' device='{device}'><source file='{folder}/x.iso' startupPolicy='{policy}'/>"
        "<target dev='sda'/></disk>"
    )
    xml = vm.xml(medium)
    vm.xml = lambda inside="": xml  # type: ignore[method-assign]
    found, words = start(tmp_path, vm, f"mount --bind {tmp_path}/fstab /etc/fstab")
    assert (found, "lies below" in words) == (status, bool(status)), words
