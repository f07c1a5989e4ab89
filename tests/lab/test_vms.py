"""VMs in the lab: QEMU by hand and under libvirt, on NFS, and what becomes of their writes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import CommandFailed, Hypervisor, Lab, NfsServer
from tests.lab.domain import domain_xml
from tests.lab.heartbeat import counter, heartbeat_disk

pytestmark = pytest.mark.lab


class Pair:
    """A server and two hosts: libvirtd runs in both, in b as Debian has it (QEMU as libvirt-qemu)."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server: NfsServer = lab.nfs_server()
        self.a: Hypervisor = lab.hypervisor("hyp-a", libvirt=True)
        self.b: Hypervisor = lab.hypervisor("hyp-b", libvirt=True, libvirt_user="libvirt-qemu")
        lab.start()
        self.a.mount(self.server)
        self.b.mount(self.server)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Lab() as lab:
        yield Pair(lab)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_vm_by_hand_beats_and_its_beats_reach_the_server(pair: Pair, format: str) -> None:
    disk = f"/srv/vm/beating.{format}"
    pair.a.put(disk, heartbeat_disk(format))
    assert counter(pair.server.get(disk)) == 0
    vm = pair.a.start_vm(disk, format)
    vm.wait_beats(10)
    vm.kill()
    beats = vm.beats()
    assert "E" not in beats
    # The last write may have arrived without the VM having been told.
    assert counter(pair.server.get(disk)) in (len(beats), len(beats) + 1)


def test_qemu_refuses_a_disk_in_use_unless_its_locks_are_off(pair: Pair) -> None:
    pair.a.put("/srv/vm/twice.qcow2", heartbeat_disk())
    first = pair.a.start_vm("/srv/vm/twice.qcow2")
    first.wait_beats(1)
    refused = pair.b.start_vm("/srv/vm/twice.qcow2")
    assert refused.job.wait(20).returncode == 1
    assert "Failed to get" in refused.job.output()[1]
    second = pair.b.start_vm("/srv/vm/twice.qcow2", locking="off")
    second.wait_beats(5)  # the damage vmguard is for: both write
    first.wait_beats(5)
    first.kill()
    second.kill()


@pytest.mark.parametrize("name", ["a", "b"])
def test_libvirt_starts_a_vm_on_nfs_in_seconds(pair: Pair, name: str) -> None:
    host: Hypervisor = getattr(pair, name)
    disk = f"/srv/vm/libvirt-{name}.qcow2"
    host.put(disk, heartbeat_disk())
    start = time.monotonic()
    host.libvirt.create(domain_xml("vm1", disk))
    assert time.monotonic() - start < 10
    pid = host.libvirt.qemu_pid("vm1")
    host.libvirt.restart()
    assert host.libvirt.virsh("domstate", "vm1").stdout.strip() == "running"
    assert host.libvirt.qemu_pid("vm1") == pid
    deadline = time.monotonic() + 10
    while host.libvirt.beats("vm1").count(".") < 10:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    host.libvirt.virsh("destroy", "vm1")
    assert counter(pair.server.get(disk)) >= 10


def test_hooks_of_this_machine_are_not_the_guests(pair: Pair) -> None:
    assert pair.a.run("ls /etc/libvirt/hooks /run/vmguard /etc/vmguard 2>/dev/null", check=False).stdout.split() == [
        "/etc/libvirt/hooks:"
    ]
    with pytest.raises(CommandFailed, match="failed to get domain"):
        pair.a.libvirt.virsh("start", "no-such-vm")
