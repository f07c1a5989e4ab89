"""A file that the VM could live without, on a server of its own: what its loss may cost, and what it may not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import Lab, NfsServer
from tests.support.guarded_guests import Guarded, Guest
from tests.support.watched_guests import LEASE, Stillness, clean_up, codes, dead, start, wait_until

pytestmark = pytest.mark.lab

ISOS = "/srv/iso"


@dataclass(frozen=True)
class Site:
    """One host; its disks lie on one server, its ISOs on another."""

    host: Guarded
    isos: NfsServer


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        disks, isos = lab.nfs_server(), lab.nfs_server("isos")
        host = Guarded(lab.hypervisor("hyp-a"), "hook: {wait: 0s}\n")
        host.mount(disks)
        host.mount(isos, ISOS)
        host.start_daemon()
        yield Site(host, isos)


def test_a_cd_on_a_server_that_dies_and_forgets_neither_freezes_nor_kills_the_vm(site: Site) -> None:
    host, isos = site.host, site.isos
    guest = Guest("with-cd", cdrom=f"{ISOS}/cd.iso")
    host.make_disks(guest)
    host.host.run(["dd", "if=/dev/zero", f"of={guest.cdrom}", "bs=1M", "count=4"])
    host.host.run("sync")
    vm = start(host, guest)
    assert "cd.iso" in str(host.guarded(guest)), "the CD is not guarded at all"
    still = Stillness(host, {"vm": vm})
    isos.power_cut()
    time.sleep(2 * LEASE)
    try:
        vm.wait_beats(3)
        assert not still.since(), "it stands still for the sake of a CD"
    finally:
        isos.boot(forget=True)
    isos.wait()
    wait_until("its loss is reported", lambda: "lock.lost" in codes(host, guest), 40, host.log)
    wait_until("it is locked again", lambda: "cd.iso is locked again" in host.log(), 40, host.log)
    wait_until("in order", lambda: host.check(guest.name)["summary"] == "guarded here, running", 20, host.log)
    assert not dead(vm)
    vm.wait_beats(3)
    assert "E" not in vm.beats()
    assert not {"vm.freeze", "vm.fence"} & set(codes(host, guest))
    still.end()
    clean_up(host, (guest, vm))


def test_control_a_disk_on_that_server_is_frozen_and_fenced(site: Site) -> None:
    host, isos = site.host, site.isos
    guest = Guest("with-disk", disks=("/srv/vm/with-disk.raw", f"{ISOS}/with-disk-2.raw"))
    host.make_disks(guest)
    vm = start(host, guest)
    isos.power_cut()
    try:
        wait_until("it is frozen", lambda: "vm.freeze" in codes(host, guest), 2 * LEASE, host.log)
    finally:
        isos.boot(forget=True)
    isos.wait()
    wait_until("it is fenced", lambda: dead(vm), 60, host.log)
    assert "vm.fence" in codes(host, guest)
    host.wait_released(guest, 30)
