"""The storage reboots between a start's lock and its QEMU, and gives the lock to the host that had it before.

A is cut off, B's claim has its lock, and then B hears nothing more of the storage, which comes back with the recovery
database of before and takes A's reclaim. No owner record tells A of B's claim: it is not written yet. So A's VM goes
on, rightly, and B's start must not become a second one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import Job, Lab, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.scenarios.database import restore_database, save_database
from tests.scenarios.gateway import mount_through, set_mode, start_gateway
from tests.support.guarded_guests import HOOK, Guarded, Guest
from tests.support.watched_guests import LEASE, codes, dead, started, wait_until

pytestmark = pytest.mark.lab

_CONFIG = "hook: {wait: 0s, timeout: 100s}\n"
#: the hook of before: it believes that nothing can have happened behind its locks
_BELIEVES = f"""
import os, sys
sys.path.insert(0, "{REPOSITORY}")
from vmguard.adapters.linux import mounts, mountstats
mountstats.sessions = lambda points, path='': dict.fromkeys(points)
from vmguard.hook.libvirt import main
os._exit(main(sys.argv))
"""

Cluster = tuple[Lab, NfsServer, Job, Guarded, Guarded]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a server, A, and B behind a gateway."""
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=30)
        a, b = (Guarded(lab.hypervisor(name), _CONFIG) for name in ("hyp-a", "hyp-b"))
        gateway = start_gateway(server)
        a.mount(server)
        mount_through(server, b)
        for node in (a, b):
            node.start_daemon()
        yield lab, server, gateway, a, b


def lock_and_no_more(b: Guarded, gateway: Job, guest: Guest, hook: list[str]) -> Job:
    """Try a start until it has its lock, and hears no more of the storage from there on."""
    deadline = time.monotonic() + 60
    while True:
        claim = b.host.spawn([*hook, guest.name, "prepare", "begin", "-"], stdin=True)
        claim.send(guest.xml.encode())
        claim.end_input()
        while claim.poll() is None:
            if "holding" in gateway.output()[0]:
                return claim
            time.sleep(0.1)
        assert time.monotonic() < deadline, claim.output()


def start_that_loses_its_lock(place: Cluster, guest: Guest, hook: list[str]) -> Job:
    """Begin a start on B and let A reclaim the lock that it has got; return B's hook, which hears of it last."""
    lab, server, gateway, a, b = place
    save_database(server)
    lab.partition(a.host)
    set_mode(server, "hold-lock")
    claim = lock_and_no_more(b, gateway, guest, hook)
    restore_database(server)
    server.power_cut()
    time.sleep(1)
    server.boot()
    server.wait()
    lab.heal(a.host)
    wait_until("A's VM goes on", lambda: "vm.thaw" in codes(a, guest), 40, a.log)
    start_gateway(server)
    return claim


def test_a_start_whose_lock_is_given_to_another_host_is_refused() -> None:
    with cluster() as place:
        *_, a, b = place
        guest, vm = started(a, "web")
        refused = start_that_loses_its_lock(place, guest, [HOOK]).wait(90)
        assert refused.returncode != 0
        assert "the lock is not proven any more: EIO" in refused.stderr, refused.stderr
        assert not dead(vm)
        before = vm.beats().count(".")
        wait_until("A's VM writes", lambda: vm.beats().count(".") > before + 5, 30, a.log)
        assert "E" not in vm.beats()
        b.wait_released(guest, 30)


def test_control_a_hook_that_asks_for_nothing_starts_it_beside_the_other() -> None:
    """What stops it then is B's watchdog, when it runs already."""
    with cluster() as place:
        *_, a, b = place
        guest, vm = started(a, "web")
        b.host.put("/root/believes.py", _BELIEVES.encode())
        claimed = start_that_loses_its_lock(place, guest, [PYTHON, "-IS", "/root/believes.py"]).wait(90)
        assert claimed.returncode == 0, claimed.stderr
        before = vm.beats().count(".")
        wait_until("A's VM writes, too", lambda: vm.beats().count(".") > before, 30, a.log)
