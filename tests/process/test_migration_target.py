"""A VM that migrates to this host: reserved at once, locked once its guest runs here, stopped when its source stays.

Real processes and real files, as in test_unguarded.py: the source, and a third host, are locks of the test's own.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import Corner, Rival
from tests.support.processes import track
from vmguard.adapters.linux import ofd, proc
from vmguard.adapters.linux.vcpus import Vcpus
from vmguard.adapters.storage import owner_record
from vmguard.config.migration import Migration
from vmguard.config.owner_record import OwnerRecord
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import Origin
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.locks.ranges import LIBVIRT_RANGE, OUTGOING_MARK, QEMU_RANGE, RESERVATION, WHOLE, held_ranges
from vmguard.core.locks.retry import RetryNever
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.errors import LockConflict

pytestmark = pytest.mark.process

PIECES = held_ranges([LIBVIRT_RANGE, QEMU_RANGE])
#: a QEMU with its one vCPU thread, which begins to work when a line comes in; or with another one, made at a line
#: before that, which alone works
_CODE = """
import os, sys, threading, time
fds = [os.open(path, os.O_RDWR) for path in sys.argv[1].split(":")]
go = threading.Event()
def vcpu(number, works):
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
        comm.write(f"CPU {number}/TCG")
    print("ready", flush=True)
    go.wait()
    while not works:
        time.sleep(1)
    while True:
        end = time.monotonic() + 0.005
        while time.monotonic() < end:
            pass
        time.sleep(0.005)
late = "late" in sys.argv
threading.Thread(target=vcpu, args=(0, not late), daemon=True).start()
if late:
    sys.stdin.readline()
    threading.Thread(target=vcpu, args=(1, True), daemon=True).start()
sys.stdin.readline()
go.set()
sys.stdin.readline()
"""


class Qemu:
    """The target's QEMU: waits for memory until ``run``."""

    def __init__(self, *disks: Path, incoming: bool = True, late: bool = False) -> None:
        words = ["-incoming", "defer"] * incoming + ["late"] * late
        self.process = track(
            subprocess.Popen(
                ["qemu-system-x86_64", "-IS", "-c", _CODE, ":".join(map(str, disks)), *words],
                executable=sys.executable,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def run(self) -> None:
        self._go_on()

    def make_vcpu(self) -> None:
        """With ``late``: the one that will work."""
        self._go_on()

    def _go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def stopped(self) -> bool:
        return proc.thread_state(self.process.pid, self.process.pid) == "T"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Source(Rival):
    """The other host with the VM, guarded: it has what a claim holds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for window in (LIBVIRT_RANGE, QEMU_RANGE):
            ofd.unlock(self.fd, window)


class ThirdHost:
    """Tries to claim the whole disk in a tight loop, for the length of a ``with`` block."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self.tries = self.wins = 0

    def __enter__(self) -> ThirdHost:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        fd = os.open(self._disk, os.O_RDWR)
        while not self._over.is_set():
            self.tries += 1
            try:
                ofd.lock(fd, str(self._disk), ofd.WRITE, WHOLE)
                ofd.unlock(fd, WHOLE)
                self.wins += 1
            except LockConflict:
                time.sleep(0.0002)
        os.close(fd)


class Target(Corner):
    """This host, with a VM coming in."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.migration_target = self.parts.migration_target

    @property
    def migration(self) -> Migration:
        return self.config.migration

    @migration.setter
    def migration(self, value: Migration) -> None:
        self.config = dataclasses.replace(self.config, migration=value)

    def claim(self, *disks: Path, foothold: bool = True) -> GuardedVm:
        """What the hook hands over while the source has the disks."""
        files = []
        for disk in disks:
            fd = os.open(disk, os.O_RDWR)
            if foothold:
                ofd.lock(fd, str(disk), ofd.WRITE, RESERVATION)
            key = (disk.stat().st_dev, disk.stat().st_ino)
            files.append(GuardedFile(str(disk), EXCLUSIVE, DISK, "", key, list(PIECES), origin=Origin.RESERVED))
            files[-1].guard.received(fd)
        vm = GuardedVm("bare", "web", "1", files, State.CLAIMED, incoming="hyp-a")
        self.registry.add(vm)
        return vm

    def arrive(self, *disks: Path, incoming: bool = True, late: bool = False) -> tuple[GuardedVm, Qemu]:
        vm, qemu = self.claim(*disks), Qemu(*disks, incoming=incoming, late=late)
        self.qemus.append(qemu)
        assert self.lifecycle.runs(vm, qemu.process.pid, Kind.QEMU)
        return vm, qemu

    qemus: list[Qemu]

    def end(self) -> None:
        for qemu in self.qemus:
            qemu.end()
        super().end()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path)
    target.qemus = []
    target.loop.call_in(0.0, target.pinner.start)

    def wake() -> None:
        target.loop.call_in(0.01, wake)

    wake()
    yield target
    target.end()


def guards(vm: GuardedVm) -> set[str]:
    return {str(file.guard.state) for file in vm.files}


# -- the main path ----------------------------------------------------------------------------------------------------


def test_it_waits_while_the_source_has_the_disks_and_gets_them_when_its_guest_runs(target: Target) -> None:
    disks = [target.disk("one.raw"), target.disk("two.raw")]
    sources = [Source(disk) for disk in disks]
    vm, qemu = target.arrive(*disks)
    with ThirdHost(disks[0]) as third:
        target.spin(0.5)
        assert (vm.state, guards(vm)) == (State.INCOMING, {"incoming"})
        qemu.run()
        target.spin(0.5)
        assert (vm.state, guards(vm)) == (State.INCOMING, {"incoming"})
        for source in sources:
            source.let_go()
        began = time.monotonic()
        target.until(lambda: vm.state is State.RUNNING)
        assert time.monotonic() - began < 0.5
        target.until(lambda: guards(vm) == {"pinned"})
    assert (third.wins, third.tries > 100) == (0, True)
    assert not qemu.stopped()
    assert not vm.incoming
    with pytest.raises(LockConflict):
        Rival(disks[0])


def test_what_arrives_is_on_record_here_and_in_the_vms_list(target: Target) -> None:
    target.config = dataclasses.replace(target.config, owner_record=OwnerRecord())
    disks = [target.disk("one.raw"), target.disk("two.raw")]
    sources = [Source(disk) for disk in disks]
    vm, qemu = target.arrive(*disks)
    qemu.run()
    for source in sources:
        source.let_go()
    target.until(lambda: [file.epoch for file in vm.files] == [1, 1])
    inodes = [disk.stat().st_ino for disk in disks]
    assert owner_record.listed_disks(str(disks[0]), ".vmguard", vm.id) == inodes


def test_negative_control_without_the_foothold_a_third_host_gets_in_at_the_switch(target: Target) -> None:
    disk = target.disk("one.raw")
    source = Source(disk)
    target.claim(disk, foothold=False)
    with ThirdHost(disk) as third:
        target.spin(0.1)
        source.let_go()
        target.until(lambda: third.wins)


def test_a_source_that_lets_go_for_a_moment_may_have_its_lock_back(target: Target) -> None:
    """QEMU closes the locked descriptor at the switch; when the migration fails then, the source needs its lock."""
    disk = target.disk("one.raw")
    source = Source(disk)
    vm, qemu = target.arrive(disk)
    target.spin(0.3)
    source.let_go()
    target.spin(0.5)
    again = os.open(disk, os.O_RDWR)
    for piece in PIECES:
        ofd.lock(again, str(disk), ofd.WRITE, piece)
    target.spin(0.2)
    assert vm.state is State.INCOMING
    qemu.end()
    target.until(lambda: not len(target.registry))
    ofd.lock(again, str(disk), ofd.WRITE, WHOLE)  # nothing of the target's is left
    os.close(again)


def test_a_guest_that_does_not_run_gets_its_disks_once_nobody_has_had_them_for_seconds(target: Target) -> None:
    disk = target.disk("one.raw")
    source = Source(disk)
    vm, _ = target.arrive(disk)
    target.spin(1.5)
    source.let_go()
    began = time.monotonic()
    target.until(lambda: vm.state is State.RUNNING)
    assert time.monotonic() - began > 1.5
    target.until(lambda: guards(vm) == {"pinned"})


def test_a_source_that_left_the_disk_but_lives_keeps_the_target_from_it_until_the_guest_runs(target: Target) -> None:
    disk = target.disk("one.raw")
    source = os.open(disk, os.O_RDONLY)
    ofd.lock(source, str(disk), ofd.READ, OUTGOING_MARK)
    vm, qemu = target.arrive(disk)
    target.spin(4.5)
    assert (vm.state, guards(vm)) == (State.INCOMING, {"incoming"})
    qemu.run()
    target.until(lambda: vm.state is State.RUNNING, 2.0)
    os.close(source)


# -- what must end in a conflict ---------------------------------------------------------------------------------------


def test_a_source_that_stays_beyond_the_deadline_stops_the_guest_here(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    target.migration = Migration(deadline=1.0)
    disk = target.disk("one.raw")
    source = Source(disk)
    vm, qemu = target.arrive(disk)
    target.spin(1.5)
    assert not qemu.stopped(), "the deadline counts from when the guest runs"
    qemu.run()
    target.until(qemu.stopped)
    assert vm.state is State.CONFLICT
    assert "hyp-a" in caplog.text
    source.let_go()


def test_a_plain_start_that_was_taken_for_a_migration_is_ended_at_once(target: Target) -> None:
    disk = target.disk("one.raw")
    source = Source(disk)
    _, qemu = target.arrive(disk, incoming=False)
    target.until(lambda: qemu.process.poll() is not None, 2.0)
    target.until(lambda: not len(target.registry))
    with pytest.raises(LockConflict):
        Rival(disk)
    source.let_go()


# -- restarts and announcements ----------------------------------------------------------------------------------------


def test_the_state_file_brings_the_wait_back(target: Target) -> None:
    disk = target.disk("one.raw")
    source = Source(disk)
    vm, qemu = target.arrive(disk)
    again = GuardedVm.from_json(vm.as_json())
    assert (again.state, again.incoming) == (State.INCOMING, "hyp-a")
    assert (again.files[0].guard.is_reserved, again.files[0].guard.retry) == (True, RetryNever())

    again.files[0].guard.taken_over(vm.files[0].guard.closed("its daemon is gone"))
    again.processes = vm.processes
    target.registry.take_up(again)  # the daemon after this one
    target.migration_target.resume()
    qemu.run()
    target.spin(0.3)
    assert again.state is State.INCOMING
    source.let_go()
    target.until(lambda: again.state is State.RUNNING)


def test_an_announcement_counts_for_one_start_and_for_a_while(target: Target) -> None:
    assert not target.migration_target.is_announced("libvirt-1")
    target.migration_target.announce("libvirt-1")
    assert target.migration_target.is_announced("libvirt-1")
    assert not target.migration_target.is_announced("libvirt-1")
    target.migration_target.announce("libvirt-1")
    target.late = 61.0
    assert not target.migration_target.is_announced("libvirt-1")


def test_vcpus_are_known_by_name_and_seen_at_work(target: Target) -> None:
    qemu = Qemu(target.disk("one.raw"))
    target.qemus.append(qemu)
    vcpus = Vcpus(qemu.process.pid)
    assert len(vcpus) == 1
    before = vcpus.busy()
    time.sleep(0.1)
    assert vcpus.busy() <= before + 0.002
    qemu.run()
    time.sleep(0.2)
    assert vcpus.busy() > before + 0.02
    qemu.end()
    assert vcpus.busy() == 0.0
    vcpus.close()
    assert len(Vcpus(os.getpid())) == 0


def test_vcpus_that_qemu_makes_later_are_found(target: Target) -> None:
    """When the first one was there already: a guest may well use the last one alone."""
    target.migration = Migration(deadline=1.0)
    disk = target.disk("late.raw")
    Source(disk)
    _, qemu = target.arrive(disk, late=True)
    target.spin(0.2)
    qemu.make_vcpu()
    target.spin(1.2)
    qemu.run()
    target.until(qemu.stopped)  # its guest is seen to run while the source stays
    assert not [fd for fd in os.listdir("/proc/self/fd") if f"/proc/{qemu.process.pid}/task/" in link(fd)]


def link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
