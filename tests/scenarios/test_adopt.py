"""VMs that run without a claim, on real kernels: adopted without being touched, unless another host has their disk.

Ten VMs run on A before anybody asks vmguard; one of them secretly runs on B, too, claimed there in the right way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.qemu import Vm
from tests.support.guarded_guests import VMGUARD, Guarded, Guest

pytestmark = pytest.mark.lab

HOW_MANY = 10
TWICE = 7
#: nothing is taken up until somebody says so: the VMs are older than vmguard on this host
WAITING = "unguarded: {take_up: no, fence_after: 45s}\n"
LETTING = "unguarded: {take_up: no, action: ignore}\n"
AT_ONCE = "unguarded: {action: freeze, fence_after: 0s}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Guarded, Guarded]]:
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=10)
        a = Guarded(lab.hypervisor("hyp-a", mem="2G"), WAITING)
        b = Guarded(lab.hypervisor("hyp-b"), WAITING)
        for node in (a, b):
            node.mount(server)
            node.start_daemon()
        yield a, b


def adopt(node: Guarded, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    answer = node.host.run([VMGUARD, "adopt", "--json", "--timeout", "30", *words], 90.0, check=False)
    found = json.loads(answer.stdout)
    assert "vms" in found, (found, node.log())
    return answer.returncode, {vm["name"]: vm for vm in found["vms"]}


def beats(vm: Vm) -> bool:
    before = vm.beats().count(".")
    time.sleep(2)
    return vm.beats().count(".") > before


def restart_with(node: Guarded, config: str) -> None:
    node.kill_daemon()
    node.config = config
    node.start_daemon()


def test_nine_of_ten_are_pinned_and_the_tenth_is_named_and_frozen(cluster: tuple[Guarded, Guarded]) -> None:
    a, b = cluster
    guests = [Guest(f"vm{number}") for number in range(HOW_MANY)]
    for guest in guests:
        a.make_disks(guest)
    twice = guests[TWICE]
    other = b.start_vm(twice, "off")
    vms = {guest.name: a.run_vm(guest, "off") for guest in guests}
    for vm in vms.values():
        vm.wait_beats(2, timeout=60)
    status, found = adopt(a, "--all", "--dry-run")
    assert status == 2
    assert {vm["result"] for vm in found.values()} == {"would-adopt"}
    rivals = {name: file["rival"] for name, vm in found.items() for file in vm["files"] if file.get("rival")}
    assert list(rivals) == [twice.name]
    assert "held by hyp-b since" in rivals[twice.name]
    assert a.status() == []

    status, found = adopt(a, "--all")
    assert status == 2
    results = {name: vm["result"] for name, vm in found.items()}
    assert results == {guest.name: "conflict" if guest is twice else "adopted" for guest in guests}
    guards = {name: [file["guard"] for file in vm["files"]] for name, vm in found.items()}
    assert guards == {guest.name: ["conflict" if guest is twice else "pinned"] for guest in guests}
    assert "held by hyp-b since" in found[twice.name]["files"][0]["rival"]
    assert not beats(vms[twice.name])
    assert other.beats()
    other.wait_beats(3)
    for guest in guests:
        if guest is not twice:
            vms[guest.name].wait_beats(2, timeout=60)
    assert all(b.claim(guest).returncode == 1 for guest in guests[:2])
    assert "locked by host hyp-a" in b.claim(guests[0]).stderr
    report = a.check(twice.name)
    assert (report["status"], report["exit"]) == ("CRITICAL", 2)
    log = a.log()
    assert f"VM '{twice.name}' writes to" in log

    a.wait_released(twice, 90)  # the grace is over: it is killed, and B's VM has the disk to itself
    assert vms[twice.name].job.poll() is not None
    other.wait_beats(3)
    other.kill()
    b.wait_released(twice)
    for name, vm in vms.items():
        if name != twice.name:
            vm.kill()
    for guest in guests:
        a.wait_released(guest, 30)


def test_control_with_the_policy_ignore_both_go_on_writing(cluster: tuple[Guarded, Guarded]) -> None:
    a, b = cluster
    restart_with(a, LETTING)
    both = Guest("both")
    a.make_disks(both)
    other = b.start_vm(both, "off")
    vm = a.run_vm(both, "off")
    vm.wait_beats(2)
    adopt(a, "--all")
    vm.wait_beats(5)
    other.wait_beats(5)
    vm.kill()
    other.kill()
    b.wait_released(both)
    a.wait_released(both, 30)


def test_a_start_without_its_hook_is_pinned_in_seconds_and_a_second_one_frozen(
    cluster: tuple[Guarded, Guarded],
) -> None:
    a, b = cluster
    for node in (a, b):
        restart_with(node, AT_ONCE)
    web = Guest("web")
    a.make_disks(web)
    first = a.run_vm(web, "off")
    first.wait_beats(1)
    began = time.monotonic()
    a.wait_for(web, lambda vm: vm["files"] and all(file["guard"] == "pinned" for file in vm["files"]))
    print(f"a VM without its hook is pinned {time.monotonic() - began:.1f} s after its first beat")
    assert b.claim(web).returncode == 1
    second = b.run_vm(web, "off")
    found = b.wait_for(web, lambda vm: vm["stopped"])
    assert found["state"] == "conflict"
    assert not beats(second)
    first.wait_beats(3)
    first.kill()
    a.wait_released(web, 30)
    time.sleep(6)  # the disk is free again, and the frozen one stays frozen: its idea of the disk is an old one
    assert not beats(second)
    status, vms = adopt(b, "web")
    assert (status, vms["web"]["state"]) == (0, "running"), (vms, b.log())
    second.wait_beats(3)
    second.kill()
    b.wait_released(web, 30)
