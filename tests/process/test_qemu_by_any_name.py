"""A VM's process is found by what the kernel and root vouch for, whatever its program is called."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import Corner, Writer, open_corner
from tests.support.processes import track
from vmguard.adapters.hypervisor import RunDirs
from vmguard.daemon.adopt import other_processes
from vmguard.daemon.adopt.other_processes import MAX_PAUSE_ROUNDS, OtherProcesses, has_kvm_vm

pytestmark = pytest.mark.process

#: stands for a VM of KVM's on a machine that has no /dev/kvm
_EVENTFD = "anon_inode:[eventfd]"


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    yield from open_corner(tmp_path)


def test_a_vm_with_a_believed_pid_file_is_found_under_any_name(corner: Corner, tmp_path: Path) -> None:
    identity = str(uuid.uuid4())
    writer = corner.writer("-name", "guest=web", "-uuid", identity, program="my-emulator")
    writer.open(corner.disk("web.raw"))
    corner.spin(0.5)
    assert not len(corner.registry), "the control: nothing shows yet that it is a VM's"
    (tmp_path / "web.pid").write_text(f"{writer.pid}\n")
    corner.until(corner.pinned)
    assert (corner.vm.hypervisor, corner.vm.name, corner.vm.uuid) == ("libvirt", "web", identity)


@pytest.mark.parametrize("stands_for_kvm", [True, False])
def test_a_vm_of_kvms_is_found_under_any_name(
    corner: Corner, monkeypatch: pytest.MonkeyPatch, stands_for_kvm: bool
) -> None:
    if stands_for_kvm:
        monkeypatch.setattr(other_processes, "KVM_VM", _EVENTFD)
    writer = _with_eventfd(corner)
    writer.open(corner.disk("web.raw"))
    if stands_for_kvm:
        corner.until(corner.pinned)
    else:
        corner.spin(1.0)
        assert not len(corner.registry)


def _with_eventfd(corner: Corner) -> Writer:
    fd = os.eventfd(0, 0)  # inherited
    try:
        os.set_inheritable(fd, True)
        writer = Writer("-name", "web", program="firecracker", pass_fds=(fd,))
    finally:
        os.close(fd)
    corner.writers.append(writer)
    return writer


def test_kvm_itself_calls_its_vms_so() -> None:
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # nothing to ask here; the stand-in above shows all the rest
    vm = fcntl.ioctl(kvm, 0xAE01, 0)  # KVM_CREATE_VM
    assert has_kvm_vm(os.getpid())
    os.close(vm)
    assert not has_kvm_vm(os.getpid())
    os.close(kvm)


def test_a_process_is_looked_at_in_its_first_seconds_and_after_an_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_processes, "KVM_VM", _EVENTFD)
    fd, others, pid = os.eventfd(0, os.EFD_CLOEXEC), OtherProcesses(), os.getpid()
    looks, now_round, dirs = [], 0, RunDirs("/nowhere", "/nowhere")
    while now_round < 100:
        others.begin_round(dirs)
        if not others.rests(pid, 1, now_round):
            looks.append(others.may_run_a_vm(pid, 1, "/bin/sh"))
            others.note(pid, 1, now_round, "/bin/sh")
        now_round += 1
    assert looks[:4] == [True] * 4
    assert not any(looks[4:]), "the kernel is asked no more"
    assert len(looks) > 100 / MAX_PAUSE_ROUNDS, "but the program is"
    assert others.may_run_a_vm(pid, 1, "/opt/emulator"), "it has become another one"
    assert others.may_run_a_vm(pid, 2, "/bin/sh"), "another process has its number"
    os.close(fd)


def test_so_much_time_is_spent_on_it_in_one_round_and_nobody_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_processes, "KVM_VM", _EVENTFD)
    fd, others, pid = os.eventfd(0, os.EFD_CLOEXEC), OtherProcesses(), os.getpid()
    looks = [others.may_run_a_vm(pid, birth, "/bin/sh") for birth in range(5000)]
    assert looks[0]
    assert not looks[-1], "no time was left"
    others.note(pid, 4999, 1, "/bin/sh")
    assert not others.rests(pid, 4999, 2), "its turn is in the next round"
    others.begin_round(RunDirs("/nowhere", "/nowhere"))
    assert others.may_run_a_vm(pid, 4999, "/bin/sh")
    os.close(fd)


def test_control_a_pid_file_of_another_programs_makes_it_no_vm(corner: Corner, tmp_path: Path) -> None:
    """libvirt's folder has its own pid file, too (driver.pid)."""
    sleeper = track(subprocess.Popen([sys.executable, "-IS", "-c", "input()"], stdin=subprocess.PIPE))
    (tmp_path / "driver.pid").write_text(f"{sleeper.pid}\n")
    corner.spin(1.0)
    assert not len(corner.registry)
    assert [one for one in corner.unclaimed_qemus.unclaimed() if one.pid == sleeper.pid] == []
    sleeper.kill()
    sleeper.communicate()
