"""A start from saved memory, through the real hook and daemon: refused when the VM ran elsewhere in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_pve_hook import Node
from tests.pve.inside.hooks import HookFailed
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Answer, Guard, Vm, eventually, make_disk, run
from tests.support.processes import track
from vmguard.adapters.linux import host_identity
from vmguard.adapters.storage import owner_record
from vmguard.core.locks.owner_record import Owner, slot
from vmguard.hook.claim_saved import image_time

pytestmark = pytest.mark.process

ENDED = ("end", "-")  # libvirt before 10.5.0


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Guard, Guard, Vm]]:
    for name in "abd":
        (tmp_path / name).mkdir()
    vm = Vm("web", [make_disk(tmp_path / "d/web.raw")])
    with Guard(tmp_path / "a") as alpha, Guard(tmp_path / "b", hosts={"name": "beta"}) as beta:
        yield alpha, beta, vm


def start(guard: Guard, vm: Vm, restored: bool = False) -> Answer:
    """Call the hook as libvirt does up to the start of QEMU; return the answer that counts."""
    if restored:
        answer = guard.hook("restore", vm.xml())
        assert answer.out == ""
        if answer.status:
            return answer
    return guard.hook("prepare", vm.xml())


def end(guard: Guard, vm: Vm, words: tuple[str, str]) -> None:
    guard.hook("release", vm.xml(), words=words)
    assert eventually(lambda: not guard.states() and bool(last(vm).released), 8), guard.log
    if words[1] != "-":
        assert eventually(lambda: last(vm).ended == words[1], 5), last(vm).as_json()


def live(guard: Guard, vm: Vm, words: tuple[str, str], restored: bool = False) -> None:
    """Start a VM, let it run, end it."""
    answer = start(guard, vm, restored)
    assert answer.status == 0, answer.err
    qemu = FakeQemu(guard.libvirt_dir, vm)
    assert eventually(lambda: "pinned" in guard.guards(vm.name).values(), 5), guard.log
    qemu.kill()
    end(guard, vm, words)


def last(vm: Vm) -> Owner:
    disk = vm.disks[0]
    found = owner_record.read_owner(str(disk), ".vmguard", disk.stat().st_ino)
    assert found is not None
    return found


@pytest.mark.parametrize("reason", ["saved", "-"])
def test_another_host_ran_it_since(hosts: tuple[Guard, Guard, Vm], reason: str) -> None:
    alpha, beta, vm = hosts
    live(alpha, vm, ("end", reason))
    live(beta, vm, ("end", "shutdown" if reason == "saved" else "-"))
    refused = start(alpha, vm, restored=True)
    assert refused.status == 1
    assert "host beta, VM 'web', epoch 2" in refused.err
    assert "virsh start --force-boot web" in refused.err
    assert eventually(lambda: alpha.nothing_left(*vm.disks)), "a refused restore leaves a lock"
    # without the saved memory it starts: the announcement counted for one start alone
    assert start(alpha, vm).status == 0
    end(alpha, vm, ENDED)


@pytest.mark.parametrize("reason", ["saved", "-"])
def test_save_and_restore_on_one_host(hosts: tuple[Guard, Guard, Vm], reason: str) -> None:
    alpha, _, vm = hosts
    live(alpha, vm, ("end", reason))
    live(alpha, vm, ("end", reason), restored=True)
    live(alpha, vm, ENDED, restored=True)


def test_one_image_is_not_resumed_twice(hosts: tuple[Guard, Guard, Vm]) -> None:
    alpha, _, vm = hosts
    live(alpha, vm, ("end", "saved"))
    live(alpha, vm, ("end", "shutdown"), restored=True)
    refused = start(alpha, vm, restored=True)
    assert (refused.status, "ended by 'shutdown'" in refused.err) == (1, True)


def test_a_restore_that_failed_is_tried_again(hosts: tuple[Guard, Guard, Vm]) -> None:
    alpha, _, vm = hosts
    live(alpha, vm, ("end", "saved"))
    assert start(alpha, vm, restored=True).status == 0
    end(alpha, vm, ENDED)  # there was no QEMU
    assert last(vm).ended == "failed"
    live(alpha, vm, ("end", "saved"), restored=True)


@pytest.mark.parametrize("swept", [False, True])
def test_a_disk_that_was_replaced_since_the_save(hosts: tuple[Guard, Guard, Vm], swept: bool) -> None:
    """A backup was restored by rename; ``swept``: the old file's record is gone, too. The control is the last line."""
    alpha, _, vm = hosts
    live(alpha, vm, ("end", "saved"))
    disk = vm.disks[0]
    old = disk.rename(disk.with_name("old.raw"))
    make_disk(disk)
    if swept:
        (disk.parent / ".vmguard" / f"{old.stat().st_ino}.owner").unlink()
        old.unlink()
    refused = start(alpha, vm, restored=True)
    assert (refused.status, "it was replaced since" in refused.err) == (1, True), refused.err
    assert "virsh start --force-boot web" in refused.err
    if not swept:
        old.rename(disk)
    assert start(alpha, vm, restored=not swept).status == 0


def test_a_disk_that_was_made_anew_under_its_inode_number(hosts: tuple[Guard, Guard, Vm]) -> None:
    alpha, _, vm = hosts
    live(alpha, vm, ("end", "saved"))
    disk = vm.disks[0]
    record = disk.parent / ".vmguard" / f"{disk.stat().st_ino}.owner"
    (owner,) = owner_record.last_slots(str(record), 1)
    owner.claimed = owner.released = "2026-01-01T00:00:00Z"  # before the file was made
    record.write_bytes(slot(owner))
    refused = start(alpha, vm, restored=True)
    assert (refused.status, "made anew" in refused.err) == (1, True), refused.err
    owner.uuid = "77777777-7777-4777-8777-777777777777"  # the control: a deleted disk of another VM says nothing
    record.write_bytes(slot(owner))
    assert start(alpha, vm, restored=True).status == 0


def test_libvirtd_has_the_image_open(hosts: tuple[Guard, Guard, Vm], tmp_path: Path) -> None:
    alpha, _, vm = hosts
    live(alpha, vm, ENDED)
    image = tmp_path / "web.save"
    image.write_bytes(b"LibvirtQemudSave" + (2).to_bytes(4, "little") + (len(vm.xml())).to_bytes(4, "little"))
    with image.open("ab") as stream:
        stream.write(bytes(92 - 24) + vm.xml())
    with image.open("rb"):
        assert image_time(os.getpid(), vm.uuid) == image.stat().st_mtime
        assert image_time(os.getpid(), "77777777-7777-4777-8777-777777777777") == 0
    assert image_time(os.getpid(), vm.uuid) == 0

    def restore() -> Answer:
        libvirtd = ["/bin/sh", "-c", 'exec 9<"$0"; "$@"; exit $?', str(image), str(alpha.hook_file)]
        said = run([*libvirtd, "web", "restore", "begin", "-"], vm.xml(), alpha.hook_environment())
        assert said.status == 0, said.err
        return start(alpha, vm)

    os.utime(image, (time.time() - 3600,) * 2)  # saved by a run before the last one
    refused = restore()
    assert (refused.status, "after the memory was saved" in refused.err) == (1, True)
    os.utime(image)
    assert restore().status == 0


def test_the_iohelper_has_the_image_open(tmp_path: Path) -> None:
    """As with ``virsh restore --bypass-cache``. Negative control: any other child of libvirtd's is not looked into."""
    vm = Vm("web", [make_disk(tmp_path / "web.raw")])
    image = tmp_path / "web.save"
    image.write_bytes(b"LibvirtQemudSave" + (2).to_bytes(4, "little") + len(vm.xml()).to_bytes(4, "little"))
    with image.open("ab") as stream:
        stream.write(bytes(92 - 24) + vm.xml())
    for name, found in (("libvirt_iohelper", image.stat().st_mtime), ("cat", 0.0)):
        helper = shutil.copy("/usr/bin/sleep", tmp_path / name)
        script = 'exec 3<"$1"; "$0" 60 <&3 3<&- & exec 3<&-; echo; wait'
        libvirtd = track(subprocess.Popen(["sh", "-c", script, helper, str(image)], stdout=subprocess.PIPE))
        assert libvirtd.stdout is not None
        assert libvirtd.stdout.readline()
        assert eventually(lambda pid=libvirtd.pid, found=found: image_time(pid, vm.uuid) == found, 5)  # type: ignore[misc]
        for child in Path(f"/proc/{libvirtd.pid}/task/{libvirtd.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        libvirtd.wait(5)


def test_a_restore_that_no_daemon_learns_of_is_refused(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    vm = Vm("web", [make_disk(tmp_path / "web.raw")])
    answer = guard.hook("restore", vm.xml())
    assert (answer.status, "cannot be guarded" in answer.err) == (1, True)


def test_hibernation(tmp_path: Path) -> None:
    node = Node(tmp_path)
    state = make_disk(node.images / "vm-100-state-suspend-2026-11-20.raw")
    hibernated = (
        "name: web\nlock: suspended\nscsi0: store:100/vm-100-disk-0.raw\nvmstate: store:100/" + state.name + "\n"
    )
    fields = {
        "host": "alpha",
        "machine": host_identity.machine_id(),
        "vm": "web",
        "uuid": "100",
        "path": str(node.disk),
    }
    fields |= {"claimed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))}
    with node.guard:
        owner_record.write_claim(str(node.disk), ".vmguard", node.disk.stat().st_ino, fields)
        node.write(hibernated)
        os.utime(state, (time.time() - 3600,) * 2)
        with pytest.raises(HookFailed) as refused:
            node.phase("pre-start")
        assert "qm set 100 --delete vmstate" in str(refused.value)
        os.utime(state)
        node.phase("pre-start")  # its own last claim, and the memory is newer
