"""Proxmox nodes on real kernels: what is locked after each thing that can happen to a VM, and who gets it then."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.pve.cluster import STORE, Cluster, PveGuest, PveNode, path_of, two_nodes

pytestmark = pytest.mark.lab

LEASE = 10
PINNED = ("exclusive", "pinned")
CONFIG = "proxmox: {mount_wait: 12s}\nvms: {'119': {after_fence: restart}}\n"


class World:
    def __init__(self, lab: Lab, server: NfsServer, a: PveNode, b: PveNode) -> None:
        self.lab, self.server, self.a, self.b = lab, server, a, b
        self.cluster = Cluster(a, b)

    def guest(self, vmid: str, name: str, **more: str) -> PveGuest:
        """A VM with one heartbeat disk, owned by node a."""
        guest = PveGuest(vmid, name, more=more)
        self.cluster.create(guest, self.a)
        return guest

    def assert_free(self, vmid: str) -> None:
        """Nothing is locked any more: the other node could start it at once."""
        self.a.wait_until(vmid, {})
        report = self.b.check(vmid)
        assert report["summary"] == "free", report


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        yield World(lab, *two_nodes(lab, CONFIG))


def disk(vmid: str) -> dict[str, tuple[str, str]]:
    return {f"vm-{vmid}-disk-0.raw": PINNED}


# -- a start and every way in which it ends ---------------------------------------------------------------------------


def test_a_whole_life_pins_the_whole_file_and_frees_it_at_the_end(world: World) -> None:
    a, b = world.a, world.b
    guest = world.guest("100", "web")
    a.qm("start", "100")
    a.wait_beats("100")
    a.wait_until("100", disk("100"))
    (file,) = (a.guarded_vm("100") or {})["files"]
    assert file["ranges"] == "0-298, 300-EOF"  # Proxmox's QEMU locks nothing: only the foothold's byte is free
    assert b.check("100")["summary"] == "held by hyp-a"
    assert b.check("web")["uuid"] == "100"
    world.cluster.forget("100", a)
    for name in ("100", "web"):  # the owner record beside the disk still knows it
        assert b.check(name)["summary"] == "held by hyp-a"
    world.cluster.configure(guest, a)
    a.qm("stop", "100")
    world.assert_free("100")


@pytest.mark.parametrize("how", ["poweroff", "kill -9"])
def test_a_vm_that_ends_without_a_task_is_freed_on_proof(world: World, how: str) -> None:
    a = world.a
    world.guest("101", "ends")
    a.qm("start", "101")
    a.wait_until("101", disk("101"))
    if how == "poweroff":
        a.qm("poweroff", "101")
    else:
        a.kill_qemu("101")
    world.assert_free("101")


@pytest.mark.parametrize("how", ["activate", "qemu"])
def test_a_start_that_fails_behind_a_good_pre_start_leaks_nothing(world: World, how: str) -> None:
    """No hook follows: the daemon sees that the task has ended and QEMU has not come."""
    a = world.a
    world.guest("102", "fails")
    failed = a.qm("start", "102", check=False, failing=how)
    assert failed.returncode == 255
    began = time.monotonic()
    world.assert_free("102")
    assert time.monotonic() - began < 20, "the deadline of a start without QEMU is longer"
    assert "the task that started it has ended" in a.log()


def test_post_stop_is_no_proof_while_qemu_hangs(world: World) -> None:
    """As in D state: in a frozen cgroup (v1) not even SIGKILL reaches it."""
    a = world.a
    world.guest("103", "hangs")
    a.qm("start", "103")
    a.wait_until("103", disk("103"))
    pid = a.pid("103")
    ice = "/tmp/freezer/vm"
    a.host.run(f"mkdir -p /tmp/freezer && mount -t cgroup -o freezer freezer /tmp/freezer && mkdir {ice}")
    a.host.run(f"echo {pid} > {ice}/cgroup.procs && echo FROZEN > {ice}/freezer.state")
    stopped = a.qm("stop", "103", timeout="1")  # quit, SIGTERM, SIGKILL: then Proxmox believes that it is off
    assert "VM quit failed" in stopped.stderr
    assert a.pid("103") == 0
    time.sleep(2)
    assert a.host.run(["test", "-d", f"/proc/{pid}"]).returncode == 0
    assert a.guards("103") == disk("103")
    assert world.b.check("103")["summary"] == "held by hyp-a"
    a.host.run(f"echo THAWED > {ice}/freezer.state")
    world.assert_free("103")
    a.host.run(f"rmdir {ice} && umount /tmp/freezer")


def test_ha_starts_it_again_before_any_post_stop_came(world: World) -> None:
    a = world.a
    world.guest("104", "again")
    a.qm("start", "104")
    a.wait_until("104", disk("104"))
    first = a.pid("104")
    a.kill_qemu("104")
    a.qm("start", "104")
    assert a.pid("104") != first
    a.wait_until("104", disk("104"))
    a.wait_beats("104")
    a.qm("stop", "104")
    world.assert_free("104")


@pytest.mark.parametrize("task", ["backup", "reboot", "rollback", "suspend"])
def test_tasks_that_stop_and_start_a_vm(world: World, task: str) -> None:
    a = world.a
    vmid = {"backup": "105", "reboot": "106", "rollback": "107", "suspend": "108"}[task]
    world.guest(vmid, task)
    if task != "backup":
        a.qm("start", vmid)
        a.wait_until(vmid, disk(vmid))
    a.qm(task, vmid)
    if task == "suspend":
        world.assert_free(vmid)
        a.qm("start", vmid)
    if task != "backup":
        a.wait_until(vmid, disk(vmid))
        a.wait_beats(vmid)
        a.qm("stop", vmid)
    world.assert_free(vmid)


# -- files that come and go ------------------------------------------------------------------------------------------


def test_a_snapshot_in_the_volume_chain_manner_moves_the_locks(world: World) -> None:
    a = world.a
    guest = PveGuest("110", "chain", {"scsi0": "nas:110/vm-110-disk-0.qcow2"})
    world.cluster.create(guest, a)
    a.qm("start", "110")
    a.wait_until("110", {"vm-110-disk-0.qcow2": PINNED})
    a.qm("snapshot", "110", name="one")
    active, below = (
        int(a.host.run(["stat", "-c", "%i", f"{STORE}/images/110/{prefix}vm-110-disk-0.qcow2"]).stdout)
        for prefix in ("", "snap-one-")
    )
    began = time.monotonic()
    while (found := a.guards_by_inode("110")) != {active: PINNED, below: ("shared", "pinned")}:
        assert time.monotonic() - began < 2.0, f"{found}\n{a.log()}"
        time.sleep(0.1)
    print(f"right locks {time.monotonic() - began:.1f} s after the snapshot")
    a.wait_beats("110")
    a.qm("stop", "110")
    a.qm("start", "110")  # the plan reads the chain from the headers
    a.wait_until("110", {"vm-110-disk-0.qcow2": PINNED, "snap-one-vm-110-disk-0.qcow2": ("shared", "pinned")})
    a.qm("stop", "110")
    world.assert_free("110")


def test_linked_clones_share_their_base_on_both_nodes_and_its_template_can_be_backed_up(world: World) -> None:
    a, b = world.a, world.b
    template = PveGuest("111", "base", {"scsi0": "nas:111/base-111-disk-0.qcow2"}, {"template": "1"})
    world.cluster.create(template, a)
    base = ("shared", "pinned")
    for node, vmid in ((a, "112"), (b, "113")):
        volume = f"nas:111/base-111-disk-0.qcow2/{vmid}/vm-{vmid}-disk-0.qcow2"
        clone = PveGuest(vmid, f"clone{vmid}", {"scsi0": volume})
        make = f"mkdir -p {STORE}/images/{vmid} && cd {STORE}/images/{vmid} && qemu-img create -q -f qcow2 -F qcow2 -b"
        node.host.run(f"{make} ../111/base-111-disk-0.qcow2 {path_of(volume)}", 30)
        world.cluster.configure(clone, node)
        node.qm("start", vmid)
        node.wait_until(vmid, {f"vm-{vmid}-disk-0.qcow2": PINNED, "base-111-disk-0.qcow2": base})
        node.wait_beats(vmid)
    a.qm("backup", "111")
    a.wait_beats("112")
    b.qm("stop", "113")
    a.qm("stop", "112")
    a.wait_until("112", {})
    world.assert_free("111")


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_a_start_waits_for_a_storage_that_is_mounted_late_and_never_locks_the_bare_folder(world: World) -> None:
    b = world.b
    guest = world.guest("114", "late")
    b.host.run(["umount", STORE])
    b.host.put(path_of(guest.volumes["scsi0"]), b"bare")  # a file where the disk will be
    world.cluster.move("114", world.a, b)
    start = b.qm_job("start", "114")
    time.sleep(3)
    assert start.poll() is None
    assert "waiting for the storage: storage 'nas' is not mounted on /mnt/pve/nas" in start.output()[1]
    b.mount(world.server, STORE)
    assert start.wait(20).returncode == 0, start.output()
    b.wait_until("114", disk("114"))
    b.qm("stop", "114")
    b.wait_until("114", {})


def test_a_storage_that_stays_away_fails_the_start_in_words(world: World) -> None:
    a = world.a
    world.guest("115", "away")
    a.host.run(["umount", STORE])
    failed = a.qm("start", "115", check=False)
    a.mount(world.server, STORE)
    assert failed.returncode == 255
    assert "storage 'nas' is not mounted on /mnt/pve/nas (waited 12 s)" in failed.stderr
    world.assert_free("115")


def test_a_task_that_is_stopped_while_it_waits_leaves_nothing_behind(world: World) -> None:
    a, b = world.a, world.b
    world.guest("116", "stopped")
    a.qm("start", "116")
    a.wait_until("116", disk("116"))
    world.cluster.move("116", a, b)  # by hand, as the manual has it for a node that is surely off
    start = b.qm_job("start", "116")
    time.sleep(2.5)
    assert start.poll() is None
    began = time.monotonic()
    b.host.run("kill -TERM $(pgrep -f '[v]mguard.hook.proxmox')", check=False)  # its child may be gone before its turn
    assert start.wait(5).returncode == 255
    assert time.monotonic() - began < 2
    assert b.host.run("pgrep -f '[v]mguard.hook.proxmox'", check=False).stdout == ""
    assert b.host.run("flock -n /var/lock/qemu-server/lock-116.conf true", check=False).returncode == 0
    assert b.guarded_vm("116") is None
    a.kill_qemu("116")
    a.wait_until("116", {})
    b.qm("start", "116")
    b.qm("stop", "116")
    b.wait_until("116", {})


def test_the_other_node_waits_and_gets_the_vm_one_lease_after_a_power_cut(world: World) -> None:
    """HA tries twice, 20 s apart; the first try is enough, because it waits."""
    a, b = world.a, world.b
    world.guest("117", "fails-over")
    a.qm("start", "117")
    a.wait_until("117", disk("117"))
    a.wait_beats("117")
    world.cluster.move("117", a, b)
    start = b.qm_job("start", "117")
    time.sleep(2.5)
    assert start.poll() is None
    a.host.power_cut()
    died = time.monotonic()
    result = start.wait(30)
    took = time.monotonic() - died
    assert result.returncode == 0, result.stderr
    print(f"node dead to VM started elsewhere: {took:.1f} s with a lease of {LEASE} s\n{result.stderr}")
    assert LEASE - 2 < took < LEASE + 8
    (line, *_) = [line for line in result.stderr.splitlines() if "waiting for disk" in line]
    assert "locked by host hyp-a for VM 'fails-over'" in line
    assert "trying for" in line
    b.wait_beats("117")
    b.wait_until("117", disk("117"))
    b.qm("stop", "117")
