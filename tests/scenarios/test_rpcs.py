"""How many requests a claim costs the server: counted by the client's own statistics, operation by operation."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.lab import Lab
from tests.support.guarded_guests import SHARE, Guarded, Guest
from tests.support.watched_guests import codes, started, wait_until

pytestmark = pytest.mark.lab

#: the budget: requests for each writable disk until the VM runs
BUDGET = 8


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


@pytest.mark.parametrize(("disks", "kind"), [(1, "qcow2"), (4, "raw")])
def test_a_claim_costs_at_most_eight_requests_for_each_disk(disks: int, kind: str) -> None:
    with Lab() as lab:
        server = lab.nfs_server(
            lease=60, grace=10
        )  # the probe of the running lease, every sixth second, is not the claim
        node = Guarded(lab.hypervisor("hyp-a"))
        node.mount(server)
        node.start_daemon()
        guest = Guest("counted", tuple(f"{SHARE}/disk-{number}.{kind}" for number in range(disks)))
        node.make_disks(guest)
        for attempt in ("the first start", "a later start"):
            before = requests(node)
            assert node.claim(guest).returncode == 0
            node.wait_for(guest, lambda found: all(file["epoch"] for file in found["files"]))
            spent = requests(node) - before
            print(f"{disks} {kind} disks, {attempt}: {sum(spent.values())} requests: {dict(spent)}")
            node.hook(guest, "release")
            node.wait_released(guest)
            time.sleep(1)
        assert sum(spent.values()) <= BUDGET * disks


def test_a_quiet_mount_costs_one_small_request_in_each_interval_and_a_recovery_three_for_each_lock() -> None:
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
        print(f"a reboot of the storage, {time.monotonic() - began:.0f} s: {dict(spent)}")
        for _, vm in found:
            vm.kill()


def _all_kept(node: Guarded) -> bool:
    return {lock["verdict"] for vm in node.status() for lock in vm["watch"]["locks"]} == {"kept"}
