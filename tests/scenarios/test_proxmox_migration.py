"""Live migration as Proxmox does it: no hook at the switch, QEMU without image locks, no hook at the source's end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import counter
from tests.lab.hypervisor import Hypervisor
from tests.pve.cluster import STORE, Cluster, PveGuest, PveNode, path_of, two_nodes
from tests.scenarios.prober import Prober
from tests.support.guarded_guests import VMGUARD

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

TRIPS = 20 if os.environ.get("VMGUARD_LONG") else 3
LEASE = 10.0
CONFIG = "migration: {deadline: 3s}\n"
SCRIPT = f"{REPOSITORY}/tests/pve/inside/migrate.py"
UNLOCK = f"{REPOSITORY}/tests/scenarios/inside/unlock.py"
PORT = 60000
PINNED = ("exclusive", "pinned")


class World:
    """Two nodes, and a third host that is none of theirs."""

    def __init__(self, server: NfsServer, a: PveNode, b: PveNode, third: Hypervisor) -> None:
        self.server, self.a, self.b, self.third = server, a, b, third
        self.cluster = Cluster(a, b)

    def start(self, vmid: str) -> str:
        """A VM that beats on node a; its disk."""
        guest = PveGuest(vmid, f"vm{vmid}")
        self.cluster.create(guest, self.a)
        self.a.qm("start", vmid)
        self.a.wait_until(vmid, disk(vmid))
        self.a.wait_beats(vmid)
        return path_of(guest.volumes["scsi0"])

    def prepare(self, vmid: str, source: PveNode, target: PveNode) -> None:
        """Phase 2 up to the memory: the target's QEMU waits for it, and all its hooks have run."""
        uri = f"tcp:0.0.0.0:{PORT}"
        target.qm("start", vmid, migratedfrom=source.name, skiplock="1", paused="1", incoming=uri)
        assert target.check(vmid)["summary"] == f"incoming from {source.name}"

    def push(self, vmid: str, source: PveNode, target: PveNode) -> None:
        step(source, "push", vmid, f"tcp:{target.host.address}:{PORT}")

    def switch(self, vmid: str, source: PveNode, target: PveNode) -> None:
        """Phase 3: the configuration moves, the target's guest runs, and then the source's QEMU is ended."""
        self.cluster.move(vmid, source, target)
        step(target, "resume", vmid)
        step(source, "leave", vmid)

    def migrate(self, vmid: str, source: PveNode, target: PveNode) -> None:
        self.prepare(vmid, source, target)
        self.push(vmid, source, target)
        self.switch(vmid, source, target)

    def stop(self, vmid: str, node: PveNode) -> None:
        node.qm("stop", vmid)
        node.wait_until(vmid, {})


def step(node: PveNode, verb: str, vmid: str, *words: str) -> None:
    node.host.run([PYTHON, SCRIPT, verb, vmid, *words], 60)


def disk(vmid: str) -> dict[str, tuple[str, str]]:
    return {f"vm-{vmid}-disk-0.raw": PINNED}


def wait_conflict(node: PveNode, vmid: str) -> None:
    deadline = time.monotonic() + 15
    while (vm := node.guarded_vm(vmid) or {}).get("state") != "conflict":
        assert time.monotonic() < deadline, f"{vm}\n{node.log()}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        server, a, b = two_nodes(lab, CONFIG)
        third = lab.hypervisor("hyp-c")
        third.mount(server, STORE)
        yield World(server, a, b, third)


def test_there_and_back_again_and_a_third_host_never_gets_in(world: World) -> None:
    path = world.start("100")
    source, target = world.a, world.b
    told = 0
    with Prober(world.third, path) as rival:
        for _ in range(TRIPS):
            world.migrate("100", source, target)
            began = time.monotonic()
            target.wait_until("100", disk("100"))
            print(f"{source.name} to {target.name}: pinned {time.monotonic() - began:.1f} s after the source's end")
            told += source.beats("100").count(".")
            target.wait_beats("100")
            source.wait_until("100", {})
            assert source.check("100")["summary"] == f"held by {target.name}"
            source, target = target, source
    assert rival.wins == []
    assert rival.tries > 100
    world.stop("100", source)
    missing = counter(world.server.get(path.replace(STORE, "/srv/vm"))) - told - source.beats("100").count(".")
    assert missing in (0, 1)


def test_an_aborted_migration_leaves_the_source_untouched(world: World) -> None:
    world.start("101")
    world.prepare("101", world.a, world.b)
    pid = world.b.pid("101")
    world.b.host.run(["kill", "-TERM", str(pid)])  # qm stop --migratedfrom, QemuMigrate.pm phase2_cleanup
    world.b.wait_until("101", {})
    world.a.wait_beats("101")
    assert world.a.guards("101") == disk("101")
    assert world.b.check("101")["summary"] == "held by hyp-a"
    world.stop("101", world.a)


def test_a_target_that_dies_with_all_the_memory_gives_the_vm_back(world: World) -> None:
    world.start("102")
    world.prepare("102", world.a, world.b)
    world.push("102", world.a, world.b)
    world.b.kill_qemu("102")
    world.b.wait_until("102", {})
    step(world.a, "resume", "102")  # QemuMigrate.pm phase3_cleanup: the source's guest goes on
    world.a.wait_beats("102")
    assert world.a.guards("102") == disk("102")
    world.stop("102", world.a)


def test_a_source_that_stays_stops_the_target_by_the_deadline(world: World) -> None:
    world.start("103")
    world.prepare("103", world.a, world.b)
    world.push("103", world.a, world.b)
    step(world.b, "resume", "103")
    wait_conflict(world.b, "103")
    beats = world.b.beats("103")
    time.sleep(1)
    assert world.b.beats("103") == beats
    assert "runs here while hyp-a still holds its disks" in world.b.log()
    world.b.kill_qemu("103")
    step(world.a, "resume", "103")
    world.a.wait_beats("103")
    world.stop("103", world.a)


def test_negative_control_without_its_foothold_the_target_loses_the_disk_and_stops(world: World) -> None:
    """The target's daemon dies and nothing keeps its descriptors: a third host gets in at the switch, and is left
    alone. The daemon after it stops the target's guest, not the winner."""
    path = world.start("104")
    world.prepare("104", world.a, world.b)
    world.push("104", world.a, world.b)
    world.b.kill_daemon()
    world.cluster.move("104", world.a, world.b)
    step(world.a, "leave", "104")
    world.a.wait_until("104", {})
    winner = world.third.locker(path)
    assert winner.lock() == "ok"
    step(world.b, "resume", "104")
    world.b.start_daemon()
    wait_conflict(world.b, "104")
    assert winner.write(4096) == "ok"
    world.b.kill_qemu("104")
    world.b.wait_until("104", {})
    winner.close()


def test_negative_control_a_lock_given_up_at_the_suspend_lets_the_third_host_in(world: World) -> None:
    """QEMU has its lock until it ends. Here it is taken from it when its guest is suspended: the target's foothold
    keeps the third host out, and without that it gets in, while the source may still have to go on."""
    path = world.start("105")
    world.prepare("105", world.a, world.b)
    world.push("105", world.a, world.b)
    third = world.third.locker(path)
    assert third.lock() == "EAGAIN"
    world.a.kill_daemon()
    assert int(world.a.host.run([PYTHON, UNLOCK, str(world.a.pid("105")), path]).stdout) > 0
    assert third.lock() == "EAGAIN"
    world.b.kill_daemon()
    assert third.lock() == "ok"
    third.close()
    world.b.kill_qemu("105")
    for node in (world.a, world.b):
        node.start_daemon()
    step(world.a, "resume", "105")
    world.a.wait_until("105", disk("105"))
    world.a.wait_beats("105")
    world.stop("105", world.a)


def test_a_source_that_loses_power_right_after_the_switch_leaves_the_disk_after_its_lease(world: World) -> None:
    """Nobody can tell its silence from a source that still runs: the target is stopped by the deadline. When the server
    has given up the dead host it may go on, if a person says so."""
    path = world.start("106")
    world.prepare("106", world.a, world.b)
    world.push("106", world.a, world.b)
    world.cluster.move("106", world.a, world.b)
    with Prober(world.third, path) as rival:
        step(world.b, "resume", "106")
        world.a.host.power_cut()
        began = time.monotonic()
        wait_conflict(world.b, "106")
        stopped = world.b.beats("106")
        assert time.monotonic() - began < LEASE, "it must be stopped while the lease stands"
        while world.b.host.run([VMGUARD, "adopt", "106"], 60, check=False).returncode:
            assert time.monotonic() - began < 3 * LEASE, world.b.log()
            assert world.b.beats("106") == stopped
        print(f"goes on {time.monotonic() - began:.1f} s after the power cut")
        world.b.wait_until("106", disk("106"))
        world.b.wait_beats("106")
    assert rival.wins == []
    world.stop("106", world.b)
