"""The pin on real kernels: what a stale host still had to write when it lost its lock never reaches the disk.

A is cut off with writes in its queue; B claims when A's lease is over and writes its own pattern; A comes back. The
disks are read on the server. The control is the same with the lock beside QEMU, on a description of its own: the rival
is kept out as long, and yet the stale writes land on its data.

QEMU and the daemon both killed: tests/scenarios/test_systemd.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.qemu import Vm
from tests.scenarios.kept import until
from tests.support.guarded_guests import Guarded, Guest

pytestmark = pytest.mark.lab

LEASE = 10
SECTOR = 512
#: the heartbeat writes to the second sector
BEAT = slice(SECTOR, SECTOR + 4)
MARK = b"BBBB"
#: the watchdog would freeze and fence the VM: what the pin does alone is to be seen
CONFIG = "hook: {wait: 1s}\nwatch: {on_at_risk: ignore, on_lost: ignore}\nunguarded: {take_up: no}\n"


#: what ``vmguard daemon`` keeps for the windows of QEMU and libvirt: all but bytes 1 and 100-299
BESIDE = ((0, 1), (2, 98), (300, 0))

Cluster = tuple[Lab, NfsServer, Guarded, Guarded]


@dataclass(frozen=True)
class Case:
    """A VM on A, with QEMU's own image locks or (as on Proxmox) without, that lives on or is killed meanwhile."""

    locking: str
    killed: bool

    def guest(self, title: str) -> Guest:
        return Guest(f"{title}-{'killed' if self.killed else 'alive'}-{self.locking}")


CASES = [Case(locking, killed) for locking in ("off", "auto") for killed in (False, True)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=LEASE)
        nodes = [Guarded(lab.hypervisor(name, mem="512M"), CONFIG) for name in ("hyp-a", "hyp-b")]
        for node in nodes:
            node.mount(server)
            node.start_daemon()
        yield lab, server, nodes[0], nodes[1]


def beat_on_disk(server: NfsServer, guest: Guest) -> bytes:
    return server.get(guest.paths[0])[BEAT]


def take_over(b: Guarded, guest: Guest) -> None:
    """B claims as soon as the server lets it, and writes its mark where A's VM writes its beats."""
    deadline = time.monotonic() + LEASE + 15
    while b.claim(guest).returncode:
        assert time.monotonic() < deadline, "B never got the disk"
    write = f"printf {MARK.decode()} | dd of={guest.paths[0]} bs=1 seek={SECTOR} conv=notrunc,fsync status=none"
    b.host.run(write)


def let_go(b: Guarded, guest: Guest) -> None:
    b.hook(guest, "release")
    b.wait_released(guest)


def copies(node: Guarded) -> str:
    """What the daemon has open, by its links under /proc."""
    assert node.daemon is not None
    return node.host.run(f"ls -l /proc/{node.daemon.wait_started()}/fd", check=False).stdout


def cut_off_and_back(cluster: Cluster, guests: dict[Case, Guest], vms: dict[Case, Vm], shielded: bool) -> None:
    """A partition longer than the lease, in which B takes over; some of A's QEMUs are killed with writes queued."""
    lab, server, a, b = cluster
    for vm in vms.values():
        vm.wait_beats(3)
    lab.partition(a.host)
    time.sleep(1)  # a write is in each queue by now: the VMs beat 18 times a second
    if shielded:  # of a QEMU with image locks a copy is kept only while the server owes an answer
        until(lambda: all(f"{guest.paths[0]}\n" in copies(a) for guest in guests.values()), lambda: copies(a), 5)
    for case, vm in vms.items():
        if case.killed:
            vm.job.kill()
    for guest in guests.values():
        take_over(b, guest)
        assert beat_on_disk(server, guest) == MARK
    lab.heal(a.host)


def refused_from_now_on(vm: Vm) -> None:
    """Its guest is told that the pending write failed, and each one after it."""
    until(lambda: vm.beats().count("E") > 20, lambda: f"no errors: {vm.beats()[-50:]}", 60)
    assert "." not in vm.beats().partition("E")[2]


def test_no_stale_write_of_a_pinned_vm_lands(cluster: Cluster) -> None:
    _, server, a, b = cluster
    guests = {case: case.guest("pinned") for case in CASES}
    for guest in guests.values():
        a.make_disks(guest)
    vms = {case: a.start_vm(guest, case.locking) for case, guest in guests.items()}
    cut_off_and_back(cluster, guests, vms, shielded=True)
    for case, vm in vms.items():
        if not case.killed:
            refused_from_now_on(vm)
            assert beat_on_disk(server, guests[case]) == MARK
            vm.kill()
    for guest in guests.values():
        a.wait_released(guest, 90)
    time.sleep(2)
    for case, guest in guests.items():
        assert beat_on_disk(server, guest) == MARK, f"{case}: not the rival's data any more"
        let_go(b, guest)


def test_control_with_the_lock_beside_qemu_the_stale_writes_land(cluster: Cluster) -> None:
    """But for a QEMU that lives and locks its images itself: those locks are on its own description, too."""
    _, server, a, b = cluster
    a.kill_daemon()  # it would find the VMs and pin them
    guests = {case: case.guest("beside") for case in CASES}
    vms, lockers = {}, []
    for case, guest in guests.items():
        a.make_disks(guest)
        lockers.append(a.host.locker(guest.paths[0], "rw,direct"))
        assert [lockers[-1].lock(*piece) for piece in BESIDE] == ["ok"] * len(BESIDE)
        vms[case] = a.run_vm(guest, case.locking)
        vms[case].wait_beats(2)
        assert b.claim(guest).returncode == 1
    cut_off_and_back(cluster, guests, vms, shielded=False)
    own_pin = Case("auto", killed=False)
    for case, guest in guests.items():
        if case == own_pin:
            refused_from_now_on(vms[case])
            assert beat_on_disk(server, guest) == MARK
            continue
        until(
            lambda guest=guest: beat_on_disk(server, guest) != MARK,  # type: ignore[misc]
            lambda case=case: f"{case}: the stale write did not land: the control shows nothing",  # type: ignore[misc]
            60,
        )
    for case, vm in vms.items():
        if not case.killed:
            vm.kill()
    for locker in lockers:
        locker.close()
    for guest in guests.values():
        let_go(b, guest)
    a.start_daemon()
