"""VMs that nobody announced: found by what /proc shows of them, pinned, and stopped when somebody else has their disk.

Real processes and real files of this machine; the daemon's parts run in the test's own loop, and see only the test's
own files as a share.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import Corner, Rival, Writer, open_corner
from vmguard.adapters.linux import ofd
from vmguard.config.settings import Unguarded
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.watchdog.policy import OnConflict
from vmguard.daemon.registry.guarded_vm import GuardedVm

pytestmark = pytest.mark.process


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    yield from open_corner(tmp_path)


def moving(path: Path) -> bool:
    """Whether somebody beats into the file."""
    before = path.read_bytes()[512:532]
    time.sleep(0.15)
    return path.read_bytes()[512:532] != before


def guards(vm: GuardedVm) -> dict[str, tuple[str, str]]:
    return {os.path.basename(file.path): (file.guard.state, file.mode) for file in vm.files}


def test_a_vm_without_its_hook_is_pinned_and_known_by_its_own_name(
    corner: Corner, caplog: pytest.LogCaptureFixture
) -> None:
    disk, base, identity = corner.disk("web.raw"), corner.disk("base.raw"), str(uuid.uuid4())
    writer = corner.writer("-name", "guest=web,debug-threads=on", "-uuid", identity)
    writer.open(disk)
    writer.open(base, os.O_RDONLY)
    corner.until(lambda: corner.pinned(2))
    assert (corner.vm.name, corner.vm.uuid, corner.vm.pid) == ("web", identity, writer.pid)
    assert guards(corner.vm) == {"web.raw": ("pinned", EXCLUSIVE), "base.raw": ("pinned", SHARED)}
    assert [record.levelname for record in caplog.records if "without its hook" in record.getMessage()] == ["WARNING"]
    with pytest.raises(Exception, match="locked"):
        Rival(disk)
    writer.end()
    corner.until(lambda: not len(corner.registry))
    Rival(disk).let_go()


def test_with_take_up_off_it_is_only_reported(corner: Corner, caplog: pytest.LogCaptureFixture) -> None:
    corner.settings = Unguarded(take_up=False)
    corner.writer("-name", "web").open(corner.disk("web.raw"))
    corner.spin(0.5)
    assert not len(corner.registry)
    assert len([record for record in caplog.records if "UNGUARDED" in record.getMessage()]) == 1


def test_who_writes_nothing_on_the_share_is_left_alone(corner: Corner) -> None:
    corner.writer("-name", "reader").open(corner.disk("a.raw"), os.O_RDONLY)
    corner.writer("-name", "logger").open(corner.disk("log"), os.O_WRONLY | os.O_APPEND)
    corner.writer(program="dd").open(corner.disk("b.raw"))
    corner.spin(0.5)
    assert not len(corner.registry)


def test_a_vm_whose_disk_another_host_has_is_frozen_at_once_and_killed_after_the_grace(
    corner: Corner, caplog: pytest.LogCaptureFixture
) -> None:
    corner.settings = Unguarded(fence_after=0.7)
    disk = corner.disk("web.raw")
    rival = Rival(disk)
    writer = corner.writer("-name", "web")
    writer.open(disk)
    assert moving(disk)
    corner.until(lambda: len(corner.registry) and corner.vm.held_for_person)
    assert not moving(disk)
    assert corner.vm.state is State.CONFLICT
    assert "VM 'web' writes to" in caplog.text
    assert "CRITICAL" in caplog.text
    os.kill(writer.pid, signal.SIGCONT)  # somebody else means well
    corner.spin(1.2)
    assert not moving(disk)
    corner.until(lambda: not len(corner.registry))
    assert writer.process.wait(5) == -signal.SIGKILL
    assert "is fenced (killed)" in caplog.text
    assert {"vm.conflict", "vm.freeze", "vm.fence", "fence.kill"} <= set(corner.history())
    rival.let_go()


def test_once_the_other_lets_go_it_stays_frozen_until_a_person_says_so(
    corner: Corner, caplog: pytest.LogCaptureFixture
) -> None:
    corner.settings = Unguarded(fence_after=0.7)
    disk = corner.disk("web.raw")
    rival = Rival(disk)
    corner.writer("-name", "web").open(disk)
    corner.until(lambda: len(corner.registry) and corner.vm.held_for_person)
    rival.let_go()
    corner.until(corner.pinned)
    corner.spin(0.3)
    assert (corner.vm.state, bool(corner.vm.held_for_person)) == (State.CONFLICT, True)
    assert "stays frozen" in caplog.text
    corner.adopt()
    assert corner.vm.state is State.RUNNING
    assert moving(disk)


@pytest.mark.parametrize("action", [OnConflict.REPORT, OnConflict.IGNORE])
def test_control_without_a_policy_it_writes_on(corner: Corner, action: OnConflict) -> None:
    corner.settings = Unguarded(action=action)
    disk = corner.disk("web.raw")
    rival = Rival(disk)
    corner.writer("-name", "web").open(disk)
    corner.until(lambda: len(corner.registry) and any(file.guard.unpinned_reason for file in corner.vm.files))
    corner.spin(0.2)
    assert moving(disk)
    assert (corner.vm.state is State.CONFLICT) == (action is OnConflict.REPORT)
    rival.let_go()


def test_the_policy_fence_kills_at_once(corner: Corner) -> None:
    corner.settings = Unguarded(action=OnConflict.FENCE)
    disk = corner.disk("web.raw")
    rival = Rival(disk)
    writer = corner.writer("-name", "web")
    writer.open(disk)
    corner.until(lambda: writer.process.poll() is not None)
    rival.let_go()


def test_a_reader_elsewhere_and_an_incoming_vm_freeze_nobody(corner: Corner) -> None:
    template, disk = corner.disk("template.raw"), corner.disk("moving.raw")
    reader, source = Rival(template, ofd.READ), Rival(disk)
    corner.writer("-name", "writes-a-template").open(template)
    incoming = corner.writer("-name", "comes", "-incoming", "defer")
    incoming.open(disk)
    corner.until(
        lambda: (
            len(corner.registry) == 2 and all(vm.files and vm.files[0].guard.unpinned_reason for vm in corner.registry)
        )
    )
    corner.spin(0.3)
    assert {vm.name: vm.state for vm in corner.registry} == {
        "writes-a-template": State.RUNNING,
        "comes": State.INCOMING,
    }
    source.let_go()
    corner.until(lambda: all(file.guard.pin for vm in corner.registry if vm.incoming for file in vm.files))
    reader.let_go()


def test_a_disk_plugged_into_a_healthy_vm_meets_the_same_policy(corner: Corner) -> None:
    disk, other = corner.disk("web.raw"), corner.disk("other.raw")
    writer = corner.writer("-name", "web")
    writer.open(disk)
    corner.until(corner.pinned)
    rival = Rival(other)
    began = time.monotonic()
    writer.open(other)
    corner.until(lambda: corner.vm.held_for_person, counting=False)
    assert time.monotonic() - began < 2.0
    assert guards(corner.vm) == {"web.raw": ("pinned", EXCLUSIVE), "other.raw": ("conflict", EXCLUSIVE)}
    rival.let_go()


def test_a_clusters_disk_keeps_a_shared_lock(corner: Corner) -> None:
    disk = corner.disk("quorum.raw")
    first, second = corner.writer("-name", "a"), corner.writer("-name", "b")
    first.open(disk, locks=(100, 101))
    second.open(disk, locks=(100, 101))
    corner.until(lambda: corner.pinned(1, 2))
    assert [guards(vm) for vm in corner.registry] == [{"quorum.raw": ("pinned", SHARED)}] * 2


def proxmox_vm(corner: Corner, disk: Path) -> Writer:
    """A VM of Proxmox that runs, and that its pid file vouches for."""
    qemu = corner.writer("-name", "web", "-id", "100", "-pidfile", f"{corner.folder}/100.pid")
    corner.names("100.pid", qemu)
    qemu.open(disk)
    corner.until(corner.pinned)
    return qemu


def named_swtpm(corner: Corner) -> Writer:
    swtpm = corner.writer("--pid", "file=/run/qemu-server/100.swtpm.pid", program="swtpm")
    corner.names("100.swtpm.pid", swtpm)
    return swtpm


def test_helpers_are_followed_pinned_and_waited_for(corner: Corner) -> None:
    disk, tpm = corner.disk("web.raw"), corner.disk("tpm2-00.permall")
    qemu = proxmox_vm(corner, disk)
    assert corner.vm.id == "proxmox-100"
    swtpm = named_swtpm(corner)
    swtpm.open(tpm)
    daemon = corner.writer(program="qemu-storage-daemon")
    daemon.open(disk)
    corner.until(lambda: len(corner.vm.processes) == 3 and corner.pinned(2))
    through = {os.path.basename(file.path): file.guard.pin.pid for file in corner.vm.files if file.guard.pin}
    assert through == {"tpm2-00.permall": swtpm.pid, "web.raw": qemu.pid}
    qemu.end()
    corner.until(lambda: f"pid {swtpm.pid}" in corner.vm.why)
    assert corner.vm.state is State.ENDED
    swtpm.end()
    daemon.end()
    corner.until(lambda: not len(corner.registry))


def test_a_helper_that_dies_alone_lets_go_only_when_its_writes_are_through(corner: Corner) -> None:
    disk, tpm = corner.disk("web.raw"), corner.disk("tpm")
    proxmox_vm(corner, disk)
    swtpm = named_swtpm(corner)
    swtpm.open(tpm)
    corner.until(lambda: corner.pinned(2))
    swtpm.end()
    corner.until(lambda: len(corner.vm.files) == 1)
    assert corner.vm.state is State.RUNNING
    Rival(tpm).let_go()


def test_a_helper_of_roots_that_only_says_whose_it_is_dies_with_the_vm_and_holds_nothing_up(corner: Corner) -> None:
    """Nothing of it is guarded, its own locks stop nobody, and the next start does not wait for its end."""
    disk, bait, identity = corner.disk("web.raw"), corner.disk("bait.raw"), str(uuid.uuid4())
    qemu = corner.writer("-name", "web", "-uuid", identity)
    qemu.open(disk)
    corner.until(corner.pinned)
    rival = Rival(bait)
    helper = corner.writer("--tpmstate", f"dir=/var/lib/libvirt/swtpm/{identity}/tpm2", program="swtpm")
    helper.open(bait)
    corner.until(lambda: len(corner.vm.processes) == 2)
    corner.spin(0.5)
    assert (corner.vm.state, guards(corner.vm)) == (State.RUNNING, {"web.raw": ("pinned", EXCLUSIVE)})
    qemu.end()
    corner.until(lambda: not len(corner.registry))
    assert helper.process.poll() is None
    rival.let_go()


def test_where_the_pin_is_forbidden_the_lock_is_held_beside_and_the_reason_known(
    corner: Corner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmguard.adapters.linux import pidfd

    def forbidden(*_: int) -> int:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(pidfd, "copy_descriptor", forbidden)
    disk = corner.disk("web.raw")
    writer = corner.writer("-name", "web")
    writer.open(disk)
    corner.until(lambda: len(corner.registry) and any(file.guard.unpinned_reason for file in corner.vm.files))
    assert guards(corner.vm) == {"web.raw": ("held", EXCLUSIVE)}
    assert "CAP_SYS_PTRACE" in (corner.vm.files[0].guard.unpinned_reason or "")
    with pytest.raises(Exception, match="locked"):
        Rival(disk)
    writer.end()
    corner.until(lambda: not len(corner.registry))
    Rival(disk).let_go()


def test_a_descriptor_that_changes_places_is_followed_within_two_seconds(corner: Corner) -> None:
    """One closed, another opened: the count stays the same, and the number, too."""
    disk, second, third = corner.disk("web.raw"), corner.disk("b.raw"), corner.disk("c.raw")
    writer = corner.writer("-name", "web")
    writer.open(disk)
    writer.open(second)
    corner.until(lambda: corner.pinned(2))
    corner.spin(0.3)
    began = time.monotonic()
    writer.close(second)
    writer.open(third)
    corner.until(lambda: guards(corner.vm).get("c.raw") == ("pinned", EXCLUSIVE), counting=False)
    assert time.monotonic() - began < 2.0
    corner.until(lambda: "b.raw" not in guards(corner.vm))
