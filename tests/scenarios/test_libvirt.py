"""The main job through real libvirt on both hosts: what virsh says to the admin, and when a start works again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import CommandFailed, Lab, NfsServer
from tests.lab.domain import domain_xml
from tests.lab.heartbeat import heartbeat_disk
from tests.support.guarded_guests import SHARE, Guarded, two_nodes

pytestmark = pytest.mark.lab

LEASE = 10
Cluster = tuple[NfsServer, Guarded, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        yield two_nodes(lab, libvirt=True)


def define(cluster: Cluster, name: str) -> str:
    """A VM that both hosts know, on one image."""
    _, a, b = cluster
    disk = f"{SHARE}/{name}.qcow2"
    a.host.put(disk, heartbeat_disk())
    for node in (a, b):
        node.host.libvirt.define(domain_xml(name, disk))
    return disk


def wait_beats(node: Guarded, name: str, count: int = 3) -> None:
    goal = node.host.libvirt.beats(name).count(".") + count
    deadline = time.monotonic() + 20
    while node.host.libvirt.beats(name).count(".") < goal:
        assert time.monotonic() < deadline, f"{name} does not beat on {node.name}"
        time.sleep(0.1)


def wait_summary(node: Guarded, name: str, wanted: str) -> None:
    deadline = time.monotonic() + 10
    while (found := node.check(name)["summary"]) != wanted:
        assert time.monotonic() < deadline, f"{node.name} says {found!r}\n{node.log()}"


def test_a_vm_moves_from_host_to_host_only_when_the_other_has_let_go(cluster: Cluster) -> None:
    _, a, b = cluster
    disk = define(cluster, "web")
    a.host.libvirt.virsh("start", "web")
    wait_beats(a, "web")
    wait_summary(a, "web", "guarded here, running")

    began = time.monotonic()
    with pytest.raises(CommandFailed) as refused:
        b.host.libvirt.virsh("start", "web")
    took = time.monotonic() - began
    print(f"refused after {took:.1f} s (budget 5 s)")
    assert took < 15, "it waited for more than hook.wait"
    said = refused.value.result.stderr
    print(said)
    assert f"disk {disk} is locked by host hyp-a" in said
    assert "since    : 20" in said
    assert "do now" in said
    assert b.check("web")["summary"] == "held by hyp-a"
    wait_beats(a, "web")

    a.host.libvirt.virsh("destroy", "web")
    b.host.libvirt.virsh("start", "web")
    wait_beats(b, "web")
    wait_summary(b, "web", "guarded here, running")
    b.host.libvirt.virsh("destroy", "web")
    wait_summary(b, "web", "free")


def test_saved_memory_is_resumed_only_while_nobody_else_has_run_the_vm(cluster: Cluster) -> None:
    """What the guest's memory knows of its disk must be true; a managed save is resumed by any ``virsh start``."""
    _, a, b = cluster
    disk = define(cluster, "saved")
    virsh = a.host.libvirt.virsh
    virsh("start", "saved")
    wait_beats(a, "saved")
    virsh("managedsave", "saved")
    wait_summary(a, "saved", "free")
    virsh("start", "saved")  # the control: nobody had it meanwhile
    wait_beats(a, "saved")
    virsh("managedsave", "saved")
    wait_summary(a, "saved", "free")

    b.host.libvirt.virsh("start", "saved")
    wait_beats(b, "saved")
    b.host.libvirt.virsh("destroy", "saved")
    wait_summary(b, "saved", "free")
    with pytest.raises(CommandFailed) as refused:
        virsh("start", "saved")
    said = refused.value.result.stderr
    assert f"its saved memory does not fit disk {disk} any more" in said
    assert "the VM ran again since: host hyp-b, VM 'saved', epoch 3" in said
    assert "virsh start --force-boot saved" in said
    assert a.check("saved")["summary"] == "free", "a refused restore leaves a lock"
    virsh("start", "--force-boot", "saved")
    wait_beats(a, "saved")
    virsh("destroy", "saved")


def test_a_failed_start_leaves_nothing_locked(cluster: Cluster) -> None:
    _, a, b = cluster
    disk = f"{SHARE}/broken.qcow2"
    a.host.put(disk, heartbeat_disk())
    broken = "<serial type='file'><source path='/nowhere/serial'/></serial>"
    with pytest.raises(CommandFailed):
        a.host.libvirt.create(domain_xml("broken", disk, more=broken))
    b.host.libvirt.create(domain_xml("broken", disk))
    b.host.libvirt.virsh("destroy", "broken")


def test_without_the_hook_and_qemus_own_locks_both_hosts_write(cluster: Cluster) -> None:
    """The negative control: libvirt cannot turn QEMU's own image locks off, so QEMU is started by hand here.

    Without the daemon, too: it would find the second writer and stop it.
    """
    _, a, b = cluster
    disk = define(cluster, "twice")
    for node in (a, b):
        node.kill_daemon()
    vms = [node.host.start_vm(disk, locking="off") for node in (a, b)]
    for vm in vms:
        vm.wait_beats(5)
    for vm in vms:
        vm.kill()
    for node in (a, b):
        node.start_daemon()


def test_after_a_power_cut_of_the_host_the_vm_starts_elsewhere_one_lease_later(cluster: Cluster) -> None:
    _, a, b = cluster
    define(cluster, "crash")
    b.host.libvirt.virsh("start", "crash")
    wait_beats(b, "crash")
    b.host.power_cut()
    died = time.monotonic()
    todo = a.check("crash")["disks"][0]["todo"]
    assert f"its lock ends {LEASE} s after its last contact" in todo
    assert "a start can succeed from" in todo
    while a.host.libvirt.virsh("start", "crash", check=False).returncode:
        assert time.monotonic() - died < 2 * LEASE
    print(f"host dead to VM started elsewhere: {time.monotonic() - died:.1f} s with a lease of {LEASE} s")
    wait_beats(a, "crash")
    a.host.libvirt.virsh("destroy", "crash")
