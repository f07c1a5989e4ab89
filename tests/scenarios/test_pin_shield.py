"""The pin on real kernels: what a stale host still had to write when it lost its lock never reaches the disk.

A is cut off with a write in its queue; B claims when A's lease is over and writes its own pattern; A comes back. The
disk is read on the server. Each case has its control: the same, not pinned, and the stale write lands.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.scenarios.guarded import Guarded, Guest, two_nodes

pytestmark = pytest.mark.lab

LEASE = 10
SECTOR = 512
#: the heartbeat writes to the second sector
BEAT = slice(SECTOR, SECTOR + 4)
MARK = b"BBBB"
#: the watchdog would freeze and fence the VM: what the pin does alone is to be seen
CONFIG = "hook: {wait: 1s}\nwatch: {on_at_risk: ignore, on_lost: ignore}\nunguarded: {take_up: no}\n"

Cluster = tuple[Lab, NfsServer, Guarded, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        yield lab, *two_nodes(lab, CONFIG)


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


@pytest.mark.parametrize("locking", ["off", "auto"])
def test_a_stale_write_gets_eio_and_the_disk_keeps_what_the_rival_wrote(cluster: Cluster, locking: str) -> None:
    lab, server, a, b = cluster
    guest = Guest(f"stale-{locking}")
    a.make_disks(guest)
    vm = a.start_vm(guest, locking)
    vm.wait_beats(3)
    lab.partition(a.host)
    take_over(b, guest)
    lab.heal(a.host)
    vm.wait_beats(1, timeout=60, mark="E")
    assert beat_on_disk(server, guest) == MARK
    vm.kill()
    a.wait_released(guest, 60)
    assert beat_on_disk(server, guest) == MARK
    let_go(b, guest)


def test_what_a_killed_qemu_had_queued_never_lands(cluster: Cluster) -> None:
    lab, server, a, b = cluster
    guest = Guest("killed")
    a.make_disks(guest)
    vm = a.start_vm(guest, "off")
    vm.wait_beats(3)
    lab.partition(a.host)
    time.sleep(1)  # a write is in the queue by now: the VM beats 18 times a second
    vm.job.kill()
    take_over(b, guest)
    lab.heal(a.host)
    a.wait_released(guest, 90)
    time.sleep(2)
    assert beat_on_disk(server, guest) == MARK
    let_go(b, guest)


def test_control_an_unpinned_killed_qemus_write_lands_on_the_rivals_data(cluster: Cluster) -> None:
    lab, server, a, b = cluster
    guest = Guest("control")
    a.make_disks(guest)
    a.kill_daemon()  # it would find the VM and pin it
    vm = a.run_vm(guest, "off")
    vm.wait_beats(3)
    lab.partition(a.host)
    time.sleep(1)
    vm.job.kill()
    take_over(b, guest)
    assert beat_on_disk(server, guest) == MARK
    lab.heal(a.host)
    deadline = time.monotonic() + 90
    while beat_on_disk(server, guest) == MARK:
        assert time.monotonic() < deadline, "the stale write did not land: the control shows nothing"
        time.sleep(0.5)
    let_go(b, guest)
    a.start_daemon()
