"""A fence on a host where nothing else works any more: no storage, no free space, no memory, no journal, no libvirt.

The daemon runs by its own unit file under a real systemd. All of it happens at once, and the VM is dead in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import Lab
from tests.scenarios.kept import Units
from tests.support.guarded_guests import RUN_DIR, Guest
from tests.support.watched_guests import LEASE, RUN, Measured, codes, dead, start, wait_until

pytestmark = pytest.mark.lab

CONFIG = """
hook: {wait: 0s}
daemon: {realtime: yes}
watch: {on_at_risk: fence}
notify: {command: 'sleep 1000', timeout: 60s, level: info}
"""


@contextmanager
def hardships(a: Units, guest: Guest) -> Iterator[None]:
    """What a host can lose beside its storage."""
    a.host.put(f"{RUN_DIR}/{guest.name}.xml", b"<domstatus/>")  # the books of a libvirt that is dead
    a.host.run(f"cat /dev/zero > {RUN}/full", check=False)
    a.host.run("systemctl kill -s STOP systemd-journald")
    left = a.host.run(f"echo x > {RUN}/more", check=False)
    assert left.returncode != 0, "the negative control: there is space left"
    pid, busy = a.pid(), a.host.spawn("while :; do :; done")
    a.host.run(f"prlimit --pid {pid} --as=1")  # the kernel gives it not one page more
    try:
        yield
    finally:
        a.host.run(f"prlimit --pid {pid} --as=unlimited", check=False)
        busy.kill()
        a.host.run("systemctl kill -s CONT systemd-journald", 60)


def test_a_fence_is_in_time_on_a_host_where_nothing_else_works(record_property: Measured) -> None:
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=LEASE)
        a = Units(lab.hypervisor("hyp-a", mem="512M", init="systemd"), CONFIG)
        a.host.run(f"mkdir -p {RUN}; mount -t tmpfs -o size=512k,mode=700 none {RUN}")
        a.mount(server)
        a.start_daemon()
        guest = Guest("alone")
        a.make_disks(guest)
        vm = start(a, guest)
        pid = a.pid()
        with hardships(a, guest):
            lab.partition(a.host)
            took = wait_until("dead", lambda: dead(vm), 30, vm.beats)
        record_property("full disk, no memory, no journal, no libvirt: dead after the cut, s", took)
        assert took < LEASE, "another host could have had its lock"
        assert a.pid() == pid, "the daemon itself was killed"
        a.host.run(f"rm {RUN}/full")
        found = a.guarded(guest)
        assert found is not None, "its locks are kept until what it had queued is through"
        assert found["fencing"]
        lab.heal(a.host)
        a.wait_released(guest, 60)
        wait_until("it waits for libvirt's books", lambda: "fence.clean-up" in codes(a), 20, a.log)
        a.host.run(f"rm {RUN_DIR}/{guest.name}.xml")
        wait_until("the fence is complete", lambda: "fence.done" in codes(a), 60, a.log)
