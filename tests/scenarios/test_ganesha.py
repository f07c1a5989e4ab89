"""vmguard on NFS-Ganesha, mounted by the kernel's client: another server's leases, grace period and records.

What is tried is what tests/bench/worlds tries in every world; each act has its control within. The lab's other
scenarios run on the kernel's nfsd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab import GaneshaServer, Lab
from tests.scenarios import world_rows
from tests.support.watched_guests import LEASE, clean_up, codes, started, wait_until
from tests.support.world_sheet import GREEN, Sheet
from tests.support.worlds import GRACE, Site, World

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=GRACE, ganesha=True)
        yield Site(lab, World("", "ganesha"), server)


def tried(act: Callable[[Site, Sheet], None], site: Site) -> None:
    sheet = Sheet()
    act(site, sheet)
    print(sheet.rows)
    assert sheet.red() == {}


def test_claims_refusals_and_disks_that_no_hook_announces(site: Site) -> None:
    tried(world_rows.starts, site)


def test_the_server_that_is_killed_and_started_again_takes_the_reclaims_of_who_is_on_its_record(site: Site) -> None:
    server = site.server
    assert isinstance(server, GaneshaServer)
    assert "hyp-a" in str(server.clients())
    guest, vm = started(site.a, "restart")
    sessions = codes(site.a).count("mount.new-session")
    server.stop_serving()
    server.serve()
    assert server.in_grace()
    wait_until("a new session", lambda: codes(site.a).count("mount.new-session") > sessions, 20, site.a.log)
    vm.wait_beats(5, timeout=30)
    assert "E" not in vm.beats()
    assert site.b.claim(guest, 60).returncode == 1
    assert "lock.lost" not in codes(site.a, guest)
    clean_up(site.a, (guest, vm))


def test_a_host_that_is_cut_off_for_longer_than_a_lease(site: Site) -> None:
    tried(world_rows.partition, site)


def test_a_host_that_is_cut_off_as_long_and_whose_locks_nobody_wants(site: Site) -> None:
    """Linux's nfsd would keep them."""
    sheet = Sheet()
    world_rows.cut(site, sheet)
    assert sheet.rows == {"alone": (GREEN, "killed")}


def test_a_reboot_of_the_storage_and_a_start_in_its_grace_period(site: Site) -> None:
    tried(lambda site, sheet: world_rows.reboot(site, sheet, down=LEASE + 2), site)


def test_a_storage_that_has_forgotten_its_clients(site: Site) -> None:
    tried(world_rows.forgotten, site)


def test_a_dead_hosts_disks_are_free_a_lease_later(site: Site) -> None:
    tried(world_rows.takeover, site)
