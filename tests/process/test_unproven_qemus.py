"""A QEMU is a hypervisor's VM by what root has made, and never by its own words.

The daemon's parts in the test's own loop, and processes of other users. Who runs an unproven QEMU gets no hold on a VM
that is off, or just being started.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_groups import ControlGroups, libvirt_scope
from tests.support.daemon_harness import PIECES, Corner, Writer, open_corner
from tests.support.strangers import NOBODY, OPENS, Strangers, users
from vmguard.adapters.linux import ofd
from vmguard.core import LIBVIRT
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.adopt.adopter import Adopter
from vmguard.daemon.claim import fdstore_recovery
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.protocol.adoption import AdoptRequest

pytestmark = pytest.mark.process

UUID = "5f0c1f4e-1111-2222-3333-444455556666"
LIKE_LIBVIRTS = ("-name", "guest=web", "-uuid", UUID, "-chardev", "socket,path=/var/lib/libvirt/qemu/domain-1-web/m")


@pytest.fixture
def corner() -> Iterator[Corner]:
    """In a folder whose path all users may walk, unlike pytest's own."""
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))
    top.chmod(0o755)
    yield from open_corner(top)
    shutil.rmtree(top)


def claimed(path: Path) -> int:
    """What a hook passes to the daemon."""
    fd = os.open(path, os.O_RDWR)
    for piece in PIECES:
        ofd.lock(fd, str(path), ofd.WRITE, piece)
    return fd


def claim(corner: Corner, disk: Path) -> GuardedVm:
    key = (disk.stat().st_dev, disk.stat().st_ino)
    file = GuardedFile(str(disk), EXCLUSIVE, DISK, "", key, list(PIECES))
    file.guard.received(claimed(disk))
    vm = GuardedVm(LIBVIRT, "web", UUID, [file], State.OFFERED)
    corner.registry.add(vm)
    corner.lifecycle.commit(vm)
    return vm


def seen(corner: Corner, process: Writer) -> bool:
    return process.pid in {one.pid for one in corner.unclaimed_qemus.unclaimed()}


@pytest.mark.parametrize("user", users())
def test_a_users_qemu_is_reported_and_keeps_no_vm_that_is_off_from_its_start(
    corner: Corner, caplog: pytest.LogCaptureFixture, user: int
) -> None:
    forged = corner.writer(*LIKE_LIBVIRTS, user=user)
    forged.open(corner.disk("home", user))
    corner.until(lambda: "UNGUARDED" in caplog.text)
    assert f"user {user}, which no hypervisor of this host vouches for" in caplog.text
    assert len(corner.registry) == 0
    vm = claim(corner, corner.disk("web.raw"))
    corner.spin(0.5)
    assert (vm.state, caplog.text.count("UNGUARDED")) == (State.CLAIMED, 1)


def test_roots_qemu_without_a_hypervisor_is_guarded_as_nobodys(corner: Corner) -> None:
    corner.writer(*LIKE_LIBVIRTS).open(corner.disk("web.raw"))
    corner.until(corner.pinned)
    assert corner.vm.id == f"bare-{UUID}"


@pytest.mark.parametrize("user", users())
def test_control_a_pid_file_of_libvirts_makes_it_libvirts_whatever_user_it_runs_as(corner: Corner, user: int) -> None:
    qemu = corner.writer(*LIKE_LIBVIRTS, user=user)
    corner.names("web.pid", qemu)
    qemu.open(corner.disk("web.raw", user))
    corner.until(corner.pinned)
    assert (corner.vm.id, corner.vm.name, corner.vm.pid) == (f"libvirt-{UUID}", "web", qemu.pid)


@pytest.mark.parametrize("user", users())
def test_nobody_takes_the_place_of_a_vm_that_is_being_started(corner: Corner, user: int) -> None:
    vm = claim(corner, corner.disk("web.raw"))
    corner.writer(*LIKE_LIBVIRTS, user=user).open(corner.disk("home", user))
    corner.spin(0.6)
    assert vm.state is State.CLAIMED
    qemu = corner.writer(*LIKE_LIBVIRTS, user=user)
    os.chown(vm.files[0].path, user, user)
    qemu.open(Path(vm.files[0].path))
    corner.names("web.pid", qemu)
    corner.until(lambda: vm.state is State.RUNNING)
    assert (vm.pid, [process.pid for process in vm.processes]) == (qemu.pid, [qemu.pid])


def test_nobody_takes_the_place_of_a_vm_that_systemd_alone_remembers(corner: Corner) -> None:
    disk = corner.disk("web.raw", NOBODY)
    fd = claimed(disk)
    stored = {f"{LIBVIRT}-{UUID}.{disk.stat().st_dev:x}.{disk.stat().st_ino}": fd}
    run_dirs = corner.lifecycle.timing.run_dirs
    [vm] = fdstore_recovery.take_in(stored, corner.registry, lambda _: PIECES, run_dirs)
    corner.lifecycle.resume(vm, stored)
    corner.writer(*LIKE_LIBVIRTS, user=NOBODY).open(disk)
    corner.spin(0.6)
    assert vm.state is State.CLAIMED
    qemu = corner.writer(*LIKE_LIBVIRTS, user=NOBODY)
    corner.names("web.pid", qemu)
    qemu.open(disk)
    corner.until(lambda: vm.state is State.RUNNING)
    assert vm.pid == qemu.pid


def test_nobody_goes_on_with_a_vm_of_roots_that_has_ended(corner: Corner) -> None:
    disk = corner.disk("web.raw")
    qemu, other = corner.writer(*LIKE_LIBVIRTS), corner.writer(program="dd")
    qemu.open(disk)
    corner.until(corner.pinned)
    other.open(disk)  # so that its locks are kept
    qemu.end()
    corner.until(lambda: corner.vm.state is State.ENDED)
    corner.writer(*LIKE_LIBVIRTS, user=NOBODY).open(corner.disk("home", NOBODY))
    corner.spin(0.6)
    assert (corner.vm.state, corner.vm.processes) == (State.ENDED, [])


# -- whose process a pid file names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "believed"), [("old file", False), ("new file", True), ("open since birth", True)])
def test_a_process_that_began_after_its_pid_file_was_written_is_another_one(
    corner: Corner, case: str, believed: bool
) -> None:
    """libvirtd was down when the VM ended, and the number is another process's by now. The host's clock may have been
    set meanwhile; but QEMU has its pid file open."""
    path = corner.folder / "web.pid"
    path.touch()
    os.chown(path, NOBODY, NOBODY)  # so that this process can open it as QEMU does, which root started
    qemu = corner.writer(*LIKE_LIBVIRTS, user=NOBODY)
    qemu.open(corner.disk("home", NOBODY))  # it writes to the first one
    if case == "open since birth":
        qemu.open(path)
    os.chown(path, 0, 0)
    vm = claim(corner, corner.disk("web.raw"))
    corner.names("web.pid", qemu)
    if case != "new file":
        os.utime(path, (time.time() - 60, time.time() - 60))
    if believed:
        corner.until(lambda: vm.state is State.RUNNING)
    corner.spin(0.4)
    assert (vm.state is State.RUNNING) is believed


def test_a_process_in_another_vms_control_group_is_not_the_one_that_a_pid_file_means(
    corner: Corner, groups: ControlGroups
) -> None:
    vm = claim(corner, corner.disk("web.raw"))
    qemu = corner.writer(*LIKE_LIBVIRTS, user=users()[-1])
    groups.put(libvirt_scope("evil"), qemu.pid)
    corner.names("web.pid", qemu)
    corner.spin(0.4)
    assert vm.state is State.CLAIMED
    groups.put(libvirt_scope("web"), qemu.pid)
    corner.until(lambda: vm.state is State.RUNNING)
    qemu.end()


def test_a_qemu_that_writes_its_pid_file_late_is_waited_for(corner: Corner) -> None:
    """Proxmox's QEMU opens its disks first: without its hook it would be nobody's for ever."""
    qemu = corner.writer("-id", "100", "-pidfile", f"{corner.folder}/100.pid")
    qemu.open(corner.disk("web.raw"))
    corner.until(lambda: seen(corner, qemu))
    corner.spin(0.3)
    assert len(corner.registry) == 0
    corner.names("100.pid", qemu)
    corner.until(corner.pinned)
    assert corner.vm.id == "proxmox-100"


def test_control_a_qemu_whose_pid_file_never_comes_is_guarded_as_nobodys(corner: Corner) -> None:
    qemu = corner.writer("-id", "100", "-pidfile", f"{corner.folder}/100.pid")
    qemu.open(corner.disk("web.raw"))
    corner.late = 60.0
    corner.until(corner.pinned)
    assert corner.vm.id.startswith("bare-")


# -- helpers --------------------------------------------------------------------------------------------------------


def test_the_lock_of_a_helper_that_only_says_so_stops_no_vm(corner: Corner) -> None:
    qemu = corner.writer("-name", "web", "-uuid", UUID)
    qemu.open(corner.disk("web.raw"))
    corner.until(corner.pinned)
    more = corner.disk("more.raw")
    helper = corner.writer(UUID, program="qemu-storage-daemon")
    corner.until(lambda: len(corner.vm.processes) == 2)
    helper.open(more, locks=(0,), exclusive=True)
    qemu.open(more)
    corner.until(lambda: any(file.guard.unpinned_reason for file in corner.vm.files))
    corner.spin(0.4)
    assert (corner.vm.state, corner.vm.held_for_person, corner.vm.frozen) == (State.RUNNING, "", False)


def test_what_qemu_itself_has_started_is_the_vms(corner: Corner, strangers: Strangers) -> None:
    """By its ancestors, without any word about the VM; as an ordinary user's it makes a file a guarded one, too."""
    disk, more = corner.disk("web.raw"), corner.disk("more.raw")
    child = f"import os, sys; fd = os.open({str(more)!r}, os.O_RDWR); sys.stdin.read()"
    start = f"subprocess.Popen(['swtpm', '-IS', '-c', {child!r}], executable='/proc/self/exe', user={NOBODY})"
    os.chown(more, NOBODY, NOBODY)
    qemu = strangers.start(
        0, "qemu-system-x86_64", f"{disk}=", code=OPENS.replace("print(", f"import subprocess; {start}; print(")
    )
    corner.until(lambda: corner.pinned(2))
    assert corner.vm.pid == qemu.pid
    assert [process.vouched for process in corner.vm.processes] == [True, True]


def test_a_vm_of_an_earlier_daemon_stays_guarded_and_its_helpers_are_judged_anew(
    corner: Corner, groups: ControlGroups
) -> None:
    """The state files of a version that believed arguments: what it followed is followed, what it believed is not."""
    qemu, helper = corner.writer(*LIKE_LIBVIRTS), corner.writer(program="swtpm")
    forged = corner.writer(UUID, program="swtpm", user=NOBODY)
    groups.put(libvirt_scope("web"), qemu.pid, helper.pid)
    vm = claim(corner, corner.disk("web.raw"))
    qemu.open(Path(vm.files[0].path))
    corner.names("web.pid", qemu)
    corner.until(lambda: vm.state is State.RUNNING, counting=False)
    for process in (helper, forged):
        corner.lifecycle.follow(vm, process.pid, Kind.SWTPM)
    value = vm.as_json()
    for item in value["processes"]:
        del item["vouched"]
    corner.registry.remove(vm)
    again = GuardedVm.from_json(value)
    corner.registry.take_up(again)
    corner.lifecycle.resume(again, {})
    assert (again.state, again.pid) == (State.RUNNING, qemu.pid)
    assert {process.pid for process in again.processes} == {qemu.pid, helper.pid, forged.pid}
    assert {process.pid for process in again.vouched} == {qemu.pid, helper.pid}
    for writer in corner.writers:
        writer.end()


# -- adopt ----------------------------------------------------------------------------------------------------------


def test_a_users_qemu_is_adopted_by_its_pid_alone_under_a_name_that_is_no_other_vms(corner: Corner) -> None:
    forged = corner.writer(*LIKE_LIBVIRTS, user=NOBODY)
    forged.open(corner.disk("home", NOBODY))
    adopter = Adopter(
        corner.loop, corner.registry, corner.unclaimed_qemus, corner.pinner, corner.parts.driver.feed, lambda: False
    )
    answers: list[Any] = []
    for request in (AdoptRequest(("web", UUID)), AdoptRequest(everything=True)):
        adopter.adopt(request, answers.append)
        corner.until(lambda: answers, counting=False)
        assert {(vm["name"], vm["result"]) for vm in answers.pop()} >= {("web", "stranger")}
        assert len(corner.registry) == 0
    adopter.adopt(AdoptRequest(pid=forged.pid), answers.append)
    corner.until(lambda: answers, counting=False)
    assert corner.vm.name == f"web (user {NOBODY}, pid {forged.pid})"
    assert corner.vm.hypervisor == "bare"
    assert corner.vm.uuid not in ("", UUID)
    assert uuid.UUID(corner.vm.uuid)
