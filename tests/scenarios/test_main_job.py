"""The main job on real kernels: a VM runs on A, B is refused with A's name, and gets it when A lets go or dies."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.support.guarded_guests import SHARE, Guarded, Guest, two_nodes

pytestmark = pytest.mark.lab

Cluster = tuple[NfsServer, Guarded, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        # The negative control starts VMs without their hook: nobody may come to their help.
        yield two_nodes(lab, "unguarded: {take_up: no}\n")


def test_a_start_elsewhere_is_refused_with_the_holders_name_and_works_after_the_stop(cluster: Cluster) -> None:
    _, a, b = cluster
    web = Guest("web")
    a.make_disks(web)
    vm = a.start_vm(web)
    began = time.monotonic()
    refused = b.claim(web)
    assert time.monotonic() - began < 15.0
    assert refused.returncode == 1
    assert f"disk {SHARE}/web.raw is locked by host hyp-a" in refused.stderr
    assert "since" in refused.stderr
    assert "one lease" in refused.stderr
    assert refused.stdout == ""
    report = b.check("web")
    assert (report["status"], report["summary"]) == ("OK", "held by hyp-a")
    assert a.check("web")["summary"] == "guarded here, running"
    vm.kill()
    a.wait_released(web)
    vm = b.start_vm(web)
    assert b.check("web")["disks"][0]["guard"] == "pinned"
    assert a.check("web")["disks"][0]["owner"]["epoch"] == 2
    vm.kill()
    b.wait_released(web)


def test_without_vmguard_two_vms_write_to_one_image(cluster: Cluster) -> None:
    """The negative control: QEMU alone, with its own locking off as on Proxmox, and nobody who would notice."""
    _, a, b = cluster
    both = Guest("both")
    a.make_disks(both)
    for node in (a, b):
        node.kill_daemon()
    first, second = a.run_vm(both, "off"), b.run_vm(both, "off")
    first.wait_beats(5)
    second.wait_beats(5)
    first.kill()
    second.kill()
    for node in (a, b):
        node.start_daemon()


def test_a_dead_hosts_vm_starts_elsewhere_one_lease_later_as_check_said(cluster: Cluster) -> None:
    _, a, b = cluster
    web = Guest("crash")
    a.make_disks(web)
    b.start_vm(web)
    b.host.power_cut()
    died = time.monotonic()
    report = a.check("crash")
    assert report["disks"][0]["verdict"] == "held-elsewhere"
    assert "its lock ends 10 s after" in report["disks"][0]["todo"]
    while a.claim(web).returncode:
        assert time.monotonic() - died < 20.0
    took = time.monotonic() - died
    print(f"host dead to VM startable elsewhere: {took:.1f} s with a lease of 10 s")
    assert took < 10 + 4
    vm = a.run_vm(web)
    vm.wait_beats(3)
    vm.kill()
    a.wait_released(web)
