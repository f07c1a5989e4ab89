"""The watchdog among others: a second mount whose server dies, a cloned host, libvirt that starts a fenced VM again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.domain import domain_xml
from tests.lab.heartbeat import heartbeat_disk
from tests.scenarios.kept import Stored
from tests.support.guarded_guests import SHARE, Guarded, Guest
from tests.support.watched_guests import LEASE, clean_up, codes, dead, history, start, started, vmguard, wait_until

pytestmark = pytest.mark.lab

OTHER = "/srv/other"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_of_two_mounts_one_server_dies(lab: Lab) -> None:
    one = lab.nfs_server("one", lease=LEASE, grace=LEASE)
    two = lab.nfs_server("two", lease=LEASE, grace=LEASE)
    a = Guarded(lab.hypervisor("hyp-a"), "hook: {wait: 0s}\n")
    a.mount(one)
    a.mount(two, OTHER)
    a.start_daemon()
    here, vm_here = started(a, "here")
    there = Guest("there", (f"{OTHER}/there.raw",))
    both = Guest("both", (f"{SHARE}/both.raw", f"{OTHER}/both.raw"))
    for guest in (there, both):
        a.make_disks(guest)
    vm_there, vm_both = (start(a, guest) for guest in (there, both))
    two.power_cut()
    wait_until("frozen", lambda: {"frozen"} == {a.check(g.name)["state"] for g in (there, both)}, 30, a.log)
    vm_here.wait_beats(20)
    assert a.check(here.name)["state"] == "running"
    two.boot()
    for vm in (vm_there, vm_both):
        vm.wait_beats(10, timeout=60)
    assert not any(code.startswith("vm.") for code in codes(a, here))
    assert not any("E" in vm.beats() for vm in (vm_here, vm_there, vm_both))
    clean_up(a, (here, vm_here), (there, vm_there), (both, vm_both))


def test_a_clone_with_the_same_host_name_is_seen_and_the_victims_vm_is_fenced(lab: Lab) -> None:
    """What the clone does to the victim happens in the server, at its mount; nobody can prevent it from here."""
    server = lab.nfs_server(lease=LEASE, grace=LEASE)
    a = Guarded(lab.hypervisor("hyp-a"), "hook: {wait: 0s}\nwatch: {slow_round: 10s}\n")
    clone = Guarded(lab.hypervisor("clone", hostname="hyp-a"), "hook: {wait: 0s}\n")
    a.mount(server)
    a.start_daemon()
    guest, vm = started(a, "victim")
    clone.mount(server)
    wait_until("the victim's VM is dead", lambda: dead(vm), 40, a.log)
    a.wait_released(guest, 60)
    assert "lock.lost" in codes(a, guest)
    # Two hosts that use the mount take turns in throwing each other out. Whoever watches locks there says so.
    clone.start_daemon()
    taken = Guest("taken")
    clone.make_disks(taken)
    print("the clone's claim:", clone.claim(taken).returncode)
    again, on_a = Guest("again"), None
    a.make_disks(again)
    if a.claim(again).returncode == 0:
        on_a = a.run_vm(again, "off")
    named = "mount.identity-stolen"
    wait_until("the theft is named", lambda: named in codes(a) + codes(clone), 60, lambda: a.log() + clone.log())
    [text, *_] = [entry["text"] for node in (a, clone) for entry in history(node) if entry["code"] == named]
    assert "same NFS identity" in text
    if on_a is not None and not dead(on_a):
        on_a.kill()


@pytest.mark.parametrize(("loss", "fault"), [("forgotten", ""), ("revoked", "fence-start")])
def test_after_fence_restart_is_an_ordinary_start_through_libvirt(lab: Lab, loss: str, fault: str) -> None:
    """Also when the daemon dies just as it starts the VM again."""
    server = lab.nfs_server(lease=LEASE, grace=LEASE)
    a = Stored(lab.hypervisor("hyp-a", libvirt=True), "watch: {after_fence: restart}\n")
    a.mount(server)
    a.start_daemon({"VMGUARD_FAULT": fault})
    virsh = a.host.libvirt
    virsh.restart()  # it looks for hooks only when it starts
    disk = f"{SHARE}/web.qcow2"
    a.host.put(disk, heartbeat_disk())
    virsh.define(domain_xml("web", disk))
    virsh.virsh("start", "web")
    wait_until("it beats", lambda: "..." in virsh.beats("web"), 20, a.log)
    wait_until("pinned", lambda: a.check("web")["disks"][0]["guard"] == "pinned", 20, a.log)
    first, epoch = virsh.qemu_pid("web"), a.status()[0]["files"][0]["epoch"]
    time.sleep(2)
    if loss == "forgotten":
        server.reboot(forget=True)
    else:
        server.expire("hyp-a")
    wait_until("the fence is complete", lambda: "fence.done" in codes(a), 90, a.log)
    text = vmguard(a, "history", "web")
    assert "LOST" in text
    assert "carrying out after_fence" in text
    assert virsh.qemu_pid("web") != first
    wait_until("it runs again, by a new claim", lambda: a.check("web")["summary"] == "guarded here, running", 20, a.log)
    goal = virsh.beats("web").count(".") + 5
    wait_until("it beats again", lambda: virsh.beats("web").count(".") >= goal, 20, a.log)
    wait_until("pinned", lambda: a.check("web")["disks"][0]["guard"] == "pinned", 20, a.log)
    assert a.status()[0]["files"][0]["epoch"] > epoch
    assert a.told("ended") == bool(fault)
    virsh.virsh("destroy", "web")
