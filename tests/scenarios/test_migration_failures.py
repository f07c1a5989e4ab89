"""Live migrations that go wrong, or go another way: at the end one host runs the VM, guarded, or any host may start it.

Here libvirt gives silent connections up after 6 s, so that a host that is cut off is noticed within a test.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab import Job, Lab
from tests.lab.heartbeat import counter, heartbeat_disk
from tests.lab.lab import OPTIONS
from tests.scenarios.kept import until
from tests.scenarios.moving import Movers, wait_beats, wait_summary
from tests.scenarios.prober import Prober
from tests.support.guarded_guests import SHARE, Guarded

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

LONG = bool(os.environ.get("VMGUARD_LONG"))
LEASE = 10.0
#: a folder of its own on each host, under the same path
OWN = "/srv/own"
OWN_EXPORTS = {f"/srv/own-{letter}": f"{OPTIONS},no_root_squash" for letter in "ab"}


@pytest.fixture(scope="module")
def world() -> Iterator[Movers]:
    with Lab() as lab:
        yield Movers(lab, impatient=True, more_exports=OWN_EXPORTS)


def wait_gone(node: Guarded, name: str, timeout: float = 30.0) -> None:
    """Until libvirt has ended the VM, and its guard knows it."""
    until(lambda: node.host.libvirt.virsh("domstate", name, check=False).returncode != 0, node.log, timeout)
    until(lambda: node.status() == [], node.log, timeout)


def post_copy(world: Movers, name: str) -> Job:
    """The slow VM's guest runs at the target already, and a part of its memory is still at the source."""
    job = world.begin(name, "--postcopy", "--bandwidth", "1", "--postcopy-bandwidth", "3")
    world.wait_memory(name)
    world.a.host.libvirt.virsh("migrate-postcopy", name)
    wait_beats(world.b, name)
    return job


# -- who may run it is not in doubt ---------------------------------------------------------------------------------


def test_a_post_copy_migration_runs_at_the_target_while_the_source_lives(world: Movers) -> None:
    disk = world.start("late", slow=True)
    with Prober(world.third, disk) as rival:
        job = post_copy(world, "late")
        wait_summary(world.b, "late", "guarded here, running")
        # Where asking takes longer than the rest of the memory, the source has ended before it is asked.
        until(lambda: job.poll() is not None or world.a.check("late")["summary"] == "outgoing to hyp-b", world.a.log)
        world.arrived("late", job)
    assert rival.wins == []
    world.over("late")


def test_copied_storage_is_guarded_on_both_sides(world: Movers) -> None:
    """The files differ: each host claims its own, and there is nothing to hand over."""
    name, path = "copied", f"{OWN}/copied.qcow2"
    for node, letter in ((world.a, "a"), (world.b, "b")):
        node.host.mount(world.server, OWN, export=f"/srv/own-{letter}")
    world.a.host.put(path, heartbeat_disk())
    world.b.host.run(f"qemu-img create -q -f qcow2 {path} 1M")
    world.a.host.libvirt.create(world.xml(name).replace(f"{SHARE}/{name}.qcow2", path))
    wait_beats(world.a, name)
    wait_summary(world.a, name, "guarded here, running")
    result = world.begin(name, "--copy-storage-all").wait(90)
    assert result.returncode == 0, result.stderr
    wait_summary(world.b, name, "guarded here, running")
    wait_beats(world.b, name)
    assert world.b.check(name)["disks"][0]["guard"] == "pinned"
    until(lambda: world.a.status() == [], world.a.log)
    for node, answer in ((world.a, "ok"), (world.b, "EAGAIN")):
        locker = node.host.locker(path)
        assert locker.lock() == answer
        locker.close()
    world.b.host.libvirt.virsh("destroy", name)
    until(lambda: world.b.status() == [], world.b.log)
    told = [node.host.libvirt.beats(name) for node in (world.a, world.b)]
    missing = counter(world.server.get("/srv/own-b/copied.qcow2")) - sum(text.count(".") for text in told)
    assert missing in (0, 1), (missing, told)


def test_a_target_that_dies_at_the_switch_gives_the_vm_back(world: Movers) -> None:
    """The source's QEMU has given its disks up already: it must get them back."""
    disk = world.start("switch")
    with Prober(world.third, disk) as rival:
        with world.at_the_switch("switch") as job:
            world.kill("switch")
            world.failed(job)
        world.stayed("switch")
    assert rival.wins == []
    world.over("switch")


# -- a guard that is not there --------------------------------------------------------------------------------------


def test_a_target_without_its_daemon_refuses_the_vm(world: Movers) -> None:
    world.start("refused")
    world.b.stop_daemon()
    result = world.failed(world.begin("refused"))
    assert "vmguard" in result.stderr
    world.b.start_daemon()
    world.stayed("refused")
    world.over("refused")


def test_a_source_without_its_daemon_keeps_its_lock_and_hands_it_over(world: Movers) -> None:
    """What is pinned needs no daemon: QEMU's own description has the lock, and gives it up at the switch."""
    disk = world.start("silent")
    with Prober(world.third, disk) as rival:
        world.a.stop_daemon()
        result = world.begin("silent").wait(90)
        assert result.returncode == 0, result.stderr
        wait_summary(world.b, "silent", "guarded here, running", 30)
        wait_beats(world.b, "silent")
        world.a.start_daemon()
        wait_summary(world.a, "silent", "held by hyp-b")
    assert rival.wins == []
    world.over("silent")


# -- links and hosts that die ---------------------------------------------------------------------------------------


def test_hosts_that_do_not_hear_each_other_any_more_midway(world: Movers) -> None:
    disk = world.start("cut", slow=True)
    with Prober(world.third, disk) as rival:
        job = world.begin("cut", "--p2p", "--bandwidth", "1")
        world.wait_memory("cut")
        with world.cut():
            world.failed(job)
            wait_gone(world.b, "cut")
            world.stayed("cut")
    assert rival.wins == []
    world.over("cut")


class TestInFull:
    """What the long form has besides."""

    __test__ = LONG

    def test_a_source_that_dies_during_a_post_copy_leaves_the_disk_with_the_target(self, world: Movers) -> None:
        """Each of the two has a part of the guest's memory: the VM is lost, nobody gets its disk for free meanwhile."""
        disk = world.start("torn", slow=True)
        job = post_copy(world, "torn")
        world.a.host.run(["kill", "-9", str(world.a.host.libvirt.qemu_pid("torn"))])
        world.failed(job)
        wait_summary(world.a, "torn", "held by hyp-b")
        wait_summary(world.b, "torn", "guarded here, running")
        locker = world.third.locker(disk)
        assert locker.lock() == "EAGAIN"
        locker.close()
        world.b.host.libvirt.virsh("destroy", "torn")
        wait_summary(world.b, "torn", "free")

    def test_a_migration_that_is_aborted_while_the_target_does_not_answer_leaves_the_source_guarded(
        self, world: Movers
    ) -> None:
        """libvirt itself waits for the target's QEMU then, without a guard, too; the source's VM runs on meanwhile."""
        disk = world.start("deaf", slow=True)
        with Prober(world.third, disk) as rival:
            job = world.begin("deaf", "--bandwidth", "1")
            world.wait_memory("deaf")
            world.stop("deaf")
            world.a.host.libvirt.virsh("domjobabort", "deaf", check=False)
            wait_beats(world.a, "deaf")
            wait_summary(world.a, "deaf", "guarded here, running")
            world.kill("deaf")
            world.failed(job)
            world.stayed("deaf")
        assert rival.wins == []
        world.over("deaf")

    def test_a_source_that_loses_power_right_after_the_switch_takes_nothing_with_it(self, world: Movers) -> None:
        disk = world.start("whole")
        with Prober(world.third, disk) as rival:
            job = world.begin("whole")
            wait_beats(world.b, "whole", 1)
            print("the source's libvirt has ended it already" if job.poll() is not None else "the source still has it")
            told = world.a.host.libvirt.beats("whole").count(".")
            world.a.host.power_cut()
            wait_summary(world.b, "whole", "guarded here, running")
            time.sleep(LEASE)
            wait_beats(world.b, "whole")
            assert world.b.check("whole")["summary"] == "guarded here, running"
        assert rival.wins == []
        world.b.host.libvirt.virsh("destroy", "whole")
        until(lambda: world.b.status() == [], world.b.log)
        told += world.b.host.libvirt.beats("whole").count(".")
        assert counter(world.server.get(disk)) - told in (0, 1)
        world.a.host.boot()
        world.a = world.join(world.a.host)


# The last one: a host is gone after it.


def test_a_source_that_loses_power_midway_takes_the_vm_with_it_and_it_can_be_started_after_the_lease(
    world: Movers,
) -> None:
    """The target has a part of its memory only. It keeps nothing."""
    disk = world.start("halfgone", slow=True)
    job = world.begin("halfgone", "--bandwidth", "1")
    world.wait_memory("halfgone")
    assert job.poll() is None, job.output()
    world.a.host.power_cut()
    cut = time.monotonic()
    wait_gone(world.b, "halfgone")
    print(f"libvirt gave it up {time.monotonic() - cut:.1f} s after the power cut")
    xml = world.xml("halfgone", slow=True)
    while world.b.host.libvirt.virsh("create", "/dev/stdin", input=xml, check=False).returncode:
        assert time.monotonic() < cut + LEASE + 8, world.b.log()
    print(f"started again {time.monotonic() - cut:.1f} s after the power cut")
    wait_beats(world.b, "halfgone")
    wait_summary(world.b, "halfgone", "guarded here, running")
    locker = world.third.locker(disk)
    assert locker.lock() == "EAGAIN"
    locker.close()
