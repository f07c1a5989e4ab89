"""What goes wrong on the server itself: an export away for a moment, one that comes late, VMs that it starts itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.guest import PYTHON
from tests.lab.hypervisor import Hypervisor
from tests.support.guarded_guests import LOCK_WHOLE_FILE, SHARE, Guarded
from tests.support.watched_guests import clean_up, codes, dead, started, vmguard, wait_until

pytestmark = pytest.mark.lab

_CONFIG = "hook: {wait: 1s}\n"
_NFSD = "rpc.nfsd -N 3 -V 4.1 -V 4.2 4"
_EXPORT = f"exportfs -o rw,sync,insecure,no_subtree_check,no_root_squash,fsid=1 '*:{SHARE}'; exportfs -f"
_WITHDRAW = f"exportfs -u '*:{SHARE}'; exportfs -f"

Cluster = tuple[Lab, NfsServer, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=20)
        node = Guarded(lab.hypervisor("hyp-a"), _CONFIG)
        node.mount(server)
        node.start_daemon()
        yield lab, server, node


def test_an_export_that_is_away_for_a_moment_costs_no_vm(cluster: Cluster) -> None:
    _, server, node = cluster
    guest, vm = started(node, "moment")
    server.run(_WITHDRAW)
    wait_until("it is frozen", lambda: "vm.freeze" in codes(node, guest), 15, node.log)
    assert "the answer was ESTALE from the server" in vmguard(node, "check", guest.name)
    server.run(_EXPORT)
    wait_until("it goes on", lambda: "vm.thaw" in codes(node, guest), 15, node.log)
    vm.wait_beats(3)
    assert "lock.lost" not in codes(node, guest)
    clean_up(node, (guest, vm))


def test_an_nfsd_that_is_restarted_again_and_again_costs_nothing_and_is_no_thief(cluster: Cluster) -> None:
    _, server, node = cluster
    guest, vm = started(node, "restarts")
    sessions = codes(node).count("mount.new-session")
    for count in range(1, 4):
        server.run(f"rpc.nfsd 0; {_NFSD}", 60)
        wait_until("a new session", lambda: codes(node).count("mount.new-session") >= sessions + count, 15, node.log)  # noqa: B023
    vm.wait_beats(3)
    assert not {"lock.lost", "mount.identity-stolen"} & set(codes(node))
    clean_up(node, (guest, vm))


def test_an_export_that_comes_after_nfsd_costs_the_vm_and_history_says_why(cluster: Cluster) -> None:
    """Nobody else has its disk, so that an ordinary start is safe: what after_fence: restart does."""
    _, server, node = cluster
    guest, vm = started(node, "late")
    server.run(f"rpc.nfsd 0; exportfs -ua; exportfs -o ro,fsid=0,insecure,no_subtree_check '*:/srv'; {_NFSD}", 60)
    time.sleep(5)
    server.run(_EXPORT)
    wait_until("its lock is lost and it is fenced", lambda: dead(vm), 40, node.log)
    assert "lock.lost" in codes(node, guest)
    said = vmguard(node, "history", guest.name)
    assert "before its exports (ESTALE)" in said
    assert "RequiresMountsFor=/the/export" in said
    assert "watch.after_fence: restart" in said
    node.wait_released(guest, 30)
    wait_until("it can be started again", lambda: node.claim(guest).returncode == 0, 40, node.log)
    node.hook(guest, "release")
    node.wait_released(guest)


def test_a_vm_on_the_server_itself_does_not_get_a_disk_whose_owner_is_yet_to_come_back(cluster: Cluster) -> None:
    """A local lock knows no grace period; the control is a program that takes one all the same."""
    lab, server, node = cluster
    guest, vm = started(node, "remote")
    robbed, victim = started(node, "robbed")
    lab.partition(node.host)  # the switch needs longer to come back than the server
    server.reboot()
    itself = Guarded(cast(Hypervisor, server), _CONFIG)
    itself.start_daemon()
    server.spawn([PYTHON, "-c", LOCK_WHOLE_FILE, *robbed.paths]).wait_for("^locked", 10)
    refused = itself.claim(guest)
    assert refused.returncode == 1
    assert f"this host exports {SHARE} by NFS, and its NFS server is in its grace period" in refused.stderr
    wait_until("the other one is frozen", lambda: node.check(guest.name)["state"] == "frozen", 12, node.log)
    assert server.in_grace()
    lab.heal(node.host)
    wait_until("the control's VM is dead", lambda: dead(victim), 40, node.log)
    wait_until("the other one goes on", lambda: codes(node, guest)[-1:] == ["vm.thaw"], 40, node.log)
    vm.wait_beats(3)
    assert "lock.lost" not in codes(node, guest)
    wait_until("the grace period is over", lambda: not server.in_grace(), 60, node.log)
    refused = itself.claim(guest)
    assert refused.returncode == 1
    assert "is locked by host hyp-a" in refused.stderr
    clean_up(node, (guest, vm))
    node.wait_released(robbed, 30)
