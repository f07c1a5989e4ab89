"""The epoch is a fencing token: a server whose recovery database went back in time hands a lost lock out again.

A is cut off, B takes over, the storage comes back with the database of before (a restored snapshot, a lagging HA pair),
and A heals first: the server takes A's reclaim, and every probe through A's descriptor is answered well. Only the owner
record tells that B had the disk since.

An honest server does it, too, when it reboots at the wrong moment: A, cut off and back, is one of its clients again as
soon as it has said RECLAIM_COMPLETE, and its kernel finds out about its locks only then. After a reboot in between it
comes for them, and the server knows the client and no lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.qemu import Vm
from tests.scenarios.database import restore_database, save_database
from tests.scenarios.gateway import mount_through, set_mode, start_gateway
from tests.support.guarded_guests import Guarded, Guest, two_nodes
from tests.support.watched_guests import clean_up, codes, dead, history, started, wait_until

pytestmark = pytest.mark.lab

LONG = bool(os.environ.get("VMGUARD_LONG"))
ROUNDS = 20 if LONG else 1
#: long enough for two clients on a busy machine to come back in it, the second one when the first has let go
_GRACE = 60
_CONFIG = "hook: {wait: 0s}\n"
Cluster = tuple[Lab, NfsServer, Guarded, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        yield lab, *two_nodes(lab, _CONFIG, grace=_GRACE)


def take_over(lab: Lab, a: Guarded, b: Guarded, guest: Guest) -> Vm:
    """Cut A off and start its VM on B; return B's VM."""
    lab.partition(a.host)
    # A server whose grace period was ended by hand looks for expired leases only when that period would have ended
    # (fs/nfsd/nfs4state.c, nfs4_state_start_net: its first look is queued then).
    deadline = time.monotonic() + _GRACE + 40
    while b.claim(guest).returncode:
        assert time.monotonic() < deadline, "B never got the disk"
        time.sleep(0.3)
    vm = b.run_vm(guest, "off")
    vm.wait_beats(20, timeout=30)
    b.wait_for(guest, lambda found: all(file["guard"] == "pinned" for file in found["files"]))
    return vm


def take_over_behind_an_older_database(cluster: Cluster, guest: Guest, with_records: bool = True) -> Vm:
    """Leave A healed, with a lock that the server gave it back, and B cut off, with the disk; return B's VM."""
    lab, server, a, b = cluster
    save_database(server)
    vm = take_over(lab, a, b, guest)
    restore_database(server)
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
    lab, server, a, b = cluster
    guest, stale = started(a, f"token-{number}")
    rightful = take_over_behind_an_older_database(cluster, guest)
    is_fenced_by_the_token(server, a, guest, stale)
    # Not before: a reclaim that meets the stale lock is denied, and costs the rightful owner his.
    a.wait_released(guest, 60)
    lab.heal(b.host)
    is_undisturbed(b, guest, rightful)
    clean_up(b, (guest, rightful))
    server.end_grace()


def is_fenced_by_the_token(server: NfsServer, a: Guarded, guest: Guest, stale: Vm) -> None:
    """Assert that the stale VM dies within the grace period, before it is let go on."""
    wait_until("the stale VM is dead", lambda: dead(stale), _GRACE, a.log)
    assert server.in_grace(), "it may have been the end of the grace period that decided"
    assert "vm.thaw" not in codes(a, guest), "it was never let go on"
    [lost] = [entry for entry in history(a, guest) if entry["code"] == "lock.lost"]
    assert "claimed since: epoch 2, ours is 1" in lost["text"]


def is_undisturbed(b: Guarded, guest: Guest, rightful: Vm) -> None:
    wait_until(
        "the rightful owner is in order", lambda: b.check(guest.name)["summary"] == "guarded here, running", 40, b.log
    )
    rightful.wait_beats(5, timeout=60)
    assert "E" not in rightful.beats(), "the rightful owner is undisturbed"
    assert not {"lock.lost", "vm.fence"} & set(codes(b, guest))


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


@pytest.mark.parametrize("with_records", [True, False] if LONG else [True])
def test_an_honest_server_that_reboots_when_the_stale_host_is_just_back(with_records: bool) -> None:
    """Its control, a share without records as above, is part of the long form alone."""
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=_GRACE)
        a, b = (Guarded(lab.hypervisor(name), _CONFIG) for name in ("hyp-a", "hyp-b"))
        gateway = start_gateway(server)
        mount_through(server, a)
        b.mount(server)
        for node in (a, b):
            node.start_daemon()
        guest, stale = started(a, "web")
        rightful = take_over(lab, a, b, guest)
        if not with_records:
            server.run("find /srv -name '*.owner' -delete; sync")
        set_mode(server, "hold")
        lab.heal(a.host)
        gateway.wait_for("^holding", 30)
        time.sleep(1)
        lab.partition(a.host, b.host)  # B is only slower to reconnect
        server.reboot()
        start_gateway(server)
        lab.heal(a.host)
        if with_records:
            is_fenced_by_the_token(server, a, guest, stale)
            a.wait_released(guest, 60)
            lab.heal(b.host)
            is_undisturbed(b, guest, rightful)
        else:
            wait_until("the stale VM goes on", lambda: "vm.thaw" in codes(a, guest), _GRACE, a.log)
            lab.heal(b.host)
