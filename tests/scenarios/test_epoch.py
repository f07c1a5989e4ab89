"""The epoch is a fencing token: a server whose recovery database went back in time hands a lost lock out again.

A is cut off, B takes over, the storage comes back with the database of before (a restored snapshot, a lagging HA pair),
and A heals first: the server takes A's reclaim, and every probe through A's descriptor is answered well. Only the owner
record tells that B had the disk since.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.qemu import Vm
from tests.support.guarded_guests import Guarded, Guest, two_nodes
from tests.support.watched_guests import clean_up, codes, dead, history, started, wait_until

pytestmark = pytest.mark.lab

ROUNDS = 20 if os.environ.get("VMGUARD_LONG") else 2
_SAVE = "rm -rf /var/lib/nfs/old; mkdir -p /var/lib/nfs/old; cp -a {} /var/lib/nfs/old/; sync"
_RESTORE = "pkill -x nfsdcld; sleep .3; rm -rf {0}; cp -a /var/lib/nfs/old/* /var/lib/nfs/; sync"
_DATABASES = "/var/lib/nfs/nfsdcld /var/lib/nfs/nfsdcltrack /var/lib/nfs/v4recovery"

Cluster = tuple[Lab, NfsServer, Guarded, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        yield lab, *two_nodes(lab, "hook: {wait: 0s}\n")


def take_over_behind_an_older_database(cluster: Cluster, guest: Guest, with_records: bool = True) -> Vm:
    """Leave A healed, with a lock that the server gave it back, and B cut off, with the disk; return B's VM."""
    lab, server, a, b = cluster
    server.run(_SAVE.format(_DATABASES))
    lab.partition(a.host)
    deadline = time.monotonic() + 40
    while b.claim(guest).returncode:
        assert time.monotonic() < deadline, "B never got the disk"
        time.sleep(0.3)
    vm = b.run_vm(guest, "off")
    vm.wait_beats(20, timeout=30)
    b.wait_for(guest, lambda found: all(file["guard"] == "pinned" for file in found["files"]))
    server.run(_RESTORE.format(_DATABASES))
    if not with_records:
        server.run("find /srv -name '*.owner' -delete; sync")
    lab.partition(b.host)  # B is only slower to reconnect
    server.power_cut()
    time.sleep(1)
    server.boot()
    server.wait()
    lab.heal(a.host)
    return vm


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_lock_that_an_older_database_gives_back_is_lost(cluster: Cluster, number: int) -> None:
    lab, _, a, b = cluster
    guest, stale = started(a, f"token-{number}")
    rightful = take_over_behind_an_older_database(cluster, guest)
    wait_until("the stale VM is dead, within the grace period", lambda: dead(stale), 8, a.log)
    lab.heal(b.host)
    assert "vm.thaw" not in codes(a, guest), "it was never let go on"
    [lost] = [entry for entry in history(a, guest) if entry["code"] == "lock.lost"]
    assert "claimed since: epoch 2, ours is 1" in lost["text"]
    a.wait_released(guest, 60)
    wait_until("the rightful owner is in order", lambda: b.check(guest.name)["status"] == "OK", 40, b.log)
    rightful.wait_beats(len(rightful.beats()) + 5, timeout=60)
    assert "E" not in rightful.beats(), "the rightful owner is undisturbed"
    assert not {"lock.lost", "vm.fence"} & set(codes(b, guest))
    clean_up(b, (guest, rightful))


def test_control_without_its_record_the_stale_vm_is_let_go_on(cluster: Cluster) -> None:
    """What the token is for; a share without records has this limit, and doctor says so."""
    lab, _, a, b = cluster
    guest, stale = started(a, "no-token")
    rightful = take_over_behind_an_older_database(cluster, guest, with_records=False)
    wait_until("the stale VM goes on", lambda: "vm.thaw" in codes(a, guest), 40, a.log)
    lab.heal(b.host)
    stale.kill()
    rightful.kill()
    for node in (a, b):
        node.wait_released(guest, 90)
