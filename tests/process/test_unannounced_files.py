"""Files that a running VM has open and no claim has named: an image's header may have named them.

A real daemon; the disks lie on this machine's own file systems.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, locks_on, make_disk

pytestmark = pytest.mark.process

_PATIENCE_S = 20.0


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    (tmp_path / "vm").mkdir()
    return Vm("web", [make_disk(tmp_path / "vm" / "web.raw")])


@pytest.fixture
def of_the_host(tmp_path: Path) -> Path:
    """What a qcow2's header can name as its data file: another program's file, say dpkg's lock."""
    (tmp_path / "host").mkdir()
    return make_disk(tmp_path / "host" / "lock")


@pytest.fixture(params=["nothing", "its folder"])
def trusted(request: pytest.FixtureRequest, of_the_host: Path) -> list[str]:
    return [] if request.param == "nothing" else [str(of_the_host.parent)]


@pytest.fixture
def guard(tmp_path: Path, trusted: list[str]) -> Iterator[Guard]:
    with Guard(tmp_path, storage={"trusted_folders": ", ".join(trusted)}) as guard:
        yield guard


def beyond_qemus(path: Path) -> list[str]:
    """Return who locks more of a file than QEMU itself does, as /proc/locks shows it."""
    return [lock.kind for lock in locks_on(path) if lock.end == "EOF"]


def test_a_file_of_the_hosts_is_locked_only_where_the_admin_lets_images_lead(
    guard: Guard, vm: Vm, of_the_host: Path, trusted: list[str]
) -> None:
    """QEMU has it open, and locks it itself; that proves who uses it, and not that the admin has meant it."""
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    beside = make_disk(vm.disks[0].parent / "overlay.raw")
    with FakeQemu(guard.libvirt_dir, vm) as qemu:
        qemu.open(of_the_host)
        qemu.open(beside)
        wanted = {str(path): "pinned" for path in (vm.disks[0], beside, *([of_the_host] if trusted else []))}
        assert eventually(lambda: guard.guards("web") == wanted, _PATIENCE_S), (guard.guards("web"), guard.log)
        assert bool(beyond_qemus(of_the_host)) == bool(trusted)
        record = of_the_host.parent / ".vmguard"
        assert eventually(record.exists, _PATIENCE_S) if trusted else not record.exists()
        assert guard.log.count(f"it writes to {of_the_host}, on this host's own file system") == (not trusted)


def test_adopt_locks_it_no_more_than_a_claim_does(guard: Guard, vm: Vm, of_the_host: Path, trusted: list[str]) -> None:
    with FakeQemu(guard.libvirt_dir, vm, words=("-name", "web", "-drive", f"file={vm.disks[0]}")) as qemu:
        qemu.open(of_the_host)
        guard.vmguard("adopt", "--pid", str(qemu.pid))
        wanted = {str(path): "pinned" for path in (vm.disks[0], *([of_the_host] if trusted else []))}
        assert eventually(lambda: guard.guards("web") == wanted, _PATIENCE_S), (guard.guards("web"), guard.log)
        assert bool(beyond_qemus(of_the_host)) == bool(trusted)
