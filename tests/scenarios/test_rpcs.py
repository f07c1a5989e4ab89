"""How many requests a claim costs the server: counted by the client's own statistics, operation by operation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.support.guarded_guests import SHARE, Guarded, Guest
from tests.support.watched_guests import codes, started, wait_until

pytestmark = pytest.mark.lab

#: the budget: requests for each writable disk until the VM runs
BUDGET = 8
#: more where the client's caches are older than their time (by default 3 to 60 s): for each disk the attributes of it
#: and of its record, for each folder those of it, of the records' folder, and of the list of the VM's disks
AGED_DISK, AGED_FOLDER = 2, 3
DISKS = pytest.mark.parametrize(("disks", "kind"), [(1, "qcow2"), (1, "raw"), (4, "raw")])


def requests(node: Guarded) -> Counter[str]:
    """Requests so far, by operation, of the share's mount (per-op statistics of /proc/self/mountstats)."""
    counted: Counter[str] = Counter()
    ours = operations = False
    for line in node.host.get("/proc/self/mountstats").decode().splitlines():
        if line.startswith("device "):
            ours, operations = f" mounted on {SHARE} " in line, False
        elif line.strip() == "per-op statistics":
            operations = True
        elif ours and operations and ":" in line:
            name, _, numbers = line.strip().partition(":")
            counted[name] = int(numbers.split()[0])
    return counted


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Guarded, Guarded]]:
    with Lab() as lab:
        server = lab.nfs_server(lease=60, grace=10)
        nodes = Guarded(lab.hypervisor("hyp-a")), Guarded(lab.hypervisor("hyp-b"))
        for node in nodes:
            node.mount(server, options="vers=4.2,hard,actimeo=600")  # nothing grows too old on a busy machine
            node.start_daemon()
        yield nodes


@DISKS
def test_a_claim_costs_at_most_eight_requests_for_each_disk(
    hosts: tuple[Guarded, Guarded], disks: int, kind: str
) -> None:
    node, other = hosts
    guest = Guest("counted", tuple(f"{SHARE}/{disks}-disk-{number}.{kind}" for number in range(disks)))
    node.make_disks(guest)
    spent = [
        start(host, guest, f"{disks} {kind} disks, {which} start")
        for host, which in (
            (node, "the very first"),
            (node, "a later"),
            (other, "another host's first"),
            (other, "its later"),
        )
    ]
    for later in (spent[1], spent[3]):
        assert later <= BUDGET * disks


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Guarded]:
    with Lab() as lab:
        node = Guarded(lab.hypervisor("hyp-a"))
        node.mount(lab.nfs_server(lease=60, grace=10), options="vers=4.2,hard,actimeo=10")
        node.start_daemon()
        yield node


@DISKS
def test_what_the_client_has_to_ask_again_when_its_caches_are_too_old(
    forgetful: Guarded, disks: int, kind: str
) -> None:
    guest = Guest("counted", tuple(f"{SHARE}/{disks}-disk-{number}.{kind}" for number in range(disks)))
    forgetful.make_disks(guest)
    for which in ("first", "a later", "its last"):
        time.sleep(12)
        spent = start(forgetful, guest, f"caches too old: {disks} {kind} disks, {which} start")
    assert spent <= (BUDGET + AGED_DISK) * disks + AGED_FOLDER


def start(node: Guarded, guest: Guest, title: str) -> int:
    """Start a VM and end it; return how many requests that took until it would run."""
    before = requests(node)
    assert node.claim(guest).returncode == 0
    spent = requests(node) - before  # `vmguard status`, which comes next, asks for each disk's attributes
    node.wait_for(guest, lambda found: all(file["epoch"] for file in found["files"]))
    # the probe of a lease that has begun, and what the kernel gives back in its own time: the disks were made here
    counted = {name: number for name, number in spent.items() if name not in ("SEEK", "DELEGRETURN")}
    print(f"{title}: {sum(counted.values())} requests: {counted}")
    node.hook(guest, "release")
    node.wait_released(guest)
    time.sleep(1)
    return sum(counted.values())


def test_a_quiet_mount_costs_one_small_request_in_each_interval_and_a_recovery_a_few_for_each_lock() -> None:
    """However many VMs are on it; what their guests write is theirs, and what the client recovers is the client's."""
    with Lab() as lab:
        server = lab.nfs_server(lease=10)
        node = Guarded(lab.hypervisor("hyp-a"))
        node.mount(server)
        node.start_daemon()
        found = [started(node, f"quiet-{number}") for number in range(4)]
        time.sleep(3)
        before, seconds = requests(node), 20
        time.sleep(seconds)
        spent = requests(node) - before
        print(f"four VMs, {seconds} s, asked each second: {dict(spent)}")
        assert seconds / 2 < spent["SEEK"] <= seconds + 2
        # DELEGRETURN: the kernel gives back in its own time what it got when the disks were made.
        assert set(spent) <= {"SEEK", "WRITE", "DELEGRETURN"}
        before = requests(node)
        began = time.monotonic()
        server.reboot()
        wait_until("all are proven", lambda: codes(node).count("mount.new-session") and _all_kept(node), 40, node.log)
        time.sleep(2)
        spent = requests(node) - before
        took = time.monotonic() - began
        print(f"a reboot of the storage, four VMs, {took:.0f} s: {dict(spent)}")
        assert spent["SEEK"] <= took + 8 * len(found), "probes: of the lease each second, and of each lock in doubt"
        assert spent["GETATTR"] + spent["LOOKUP"] + spent["ACCESS"] <= 6 * len(found), "owner records"
        for _, vm in found:
            vm.kill()


def _all_kept(node: Guarded) -> bool:
    return {lock["verdict"] for vm in node.status() for lock in vm["watch"]["locks"]} == {"kept"}
