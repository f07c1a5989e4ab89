"""Locks and write delegations, on the servers that hand them out: Linux since 6.6.

A delegation lets a client keep opens and locks of a file to itself. A server gives one to whoever opens a file for
writing without O_DIRECT, and the client keeps it after the close: so the host that has made a disk has one. A lock that
stays in the client is no lock for a claim, so the claim makes the client give the delegation back.

The kernels are fetched by tests/setup (tests/lab/get-kernel).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.errors import LabUnavailable
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.kernels import kernel
from tests.lab.locker import Locker
from tests.support.guarded_guests import SHARE, VMGUARD, Guarded, Guest
from tests.support.watched_guests import codes, dead, start, wait_until

pytestmark = pytest.mark.lab

LEASE = 10
#: seconds within which something is done that waits for nobody
AT_ONCE = 6.0
#: an export in whose top folder nobody but the server's root may make a name
CLOSED = "/srv/closed"
#: kernel of the server, and of the host that has the delegations
WORLDS = [("6.12", "6.12"), ("testing", "testing")]
#: the hook without its look at what has become of a lock
_CARELESS = f"""
import os, sys
sys.path.insert(0, "{REPOSITORY}")
from vmguard.adapters.linux import ofd
ofd.stays_here = lambda fd: False
from vmguard.hook.libvirt import main
os._exit(main(sys.argv))
"""


@dataclass
class World:
    lab: Lab
    server: NfsServer
    a: Guarded
    b: Guarded
    count: int = 0

    def new(self) -> Guest:
        self.count += 1
        return Guest(f"vm-{self.count}")

    def locked(self, path: str) -> bool:
        """Whether the server itself knows an exclusive lock on a file."""
        inode = self.server.run(["stat", "-c", "%i", path]).stdout.strip()
        lines = [line.split() for line in self.server.locks().splitlines()]
        return any(w[1:4:2] == ["POSIX", "WRITE"] and w[5].endswith(f":{inode}") for w in lines if len(w) == 8)

    def delegated(self, path: str = "") -> str:
        """Make a disk on host A as qemu-img does; return its path. A goes on having a write delegation of it."""
        path = path or self.new().paths[0]
        self.a.host.run(["qemu-img", "create", "-q", "-f", "raw", path, "4M"])
        return path

    @contextmanager
    def way_to_a_lock(self, *words: str) -> Iterator[None]:
        """Have host A take a lock, as inside/delegated.py does, for the length of the block."""
        script = f"{REPOSITORY}/tests/scenarios/inside/delegated.py"
        job = self.a.host.spawn([PYTHON, script, *words], stdin=True)
        try:
            job.wait_for("^locked", 20)
            yield
        finally:
            job.end_input()
            job.wait(20)

    def names(self) -> set[str]:
        return set(self.server.run(["ls", "-A", SHARE]).stdout.split())


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"server-{world[0]}-client-{world[1]}")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    of_server, of_client = request.param
    try:
        kernel(of_server)
    except LabUnavailable as problem:
        pytest.skip(str(problem))
    with Lab() as lab:
        closed = {CLOSED: "rw,sync,insecure,no_subtree_check,root_squash"}
        server = lab.nfs_server(lease=LEASE, grace=LEASE, kernel=of_server, more_exports=closed)
        config = "hook: {wait: 0s}\n"
        a, b = (Guarded(lab.hypervisor(name, kernel=of_client), config) for name in ("hyp-a", "hyp-b"))
        for node in (a, b):
            node.mount(server)
            node.start_daemon()
        yield World(lab, server, a, b)


def test_negative_control_a_lock_on_a_disk_that_this_host_has_made_stays_in_its_client(world: World) -> None:
    path = world.delegated()
    disk = world.a.host.locker(path, "rw,direct")
    assert disk.lock() == "ok"
    assert not world.locked(path)
    disk.close()


def test_a_claim_of_a_disk_that_this_host_has_made_is_on_the_server(world: World) -> None:
    guest = world.new()
    path = world.delegated(guest.paths[0])
    claimed = world.a.claim(guest)
    assert claimed.returncode == 0, claimed.stderr
    assert world.locked(path)
    assert not [name for name in world.names() if name.startswith(".vmguard-")]
    assert world.server.run(["stat", "-c", "%h", path]).stdout == "1\n"

    began = time.monotonic()
    refused = world.b.claim(guest)
    assert refused.returncode != 0
    assert "hyp-a" in refused.stderr, refused.stderr
    assert time.monotonic() - began < AT_ONCE


def test_a_qemu_with_a_cache_is_pinned_on_the_server(world: World) -> None:
    """Its own open may get a delegation, although the claim's did not."""
    guest = world.new()
    world.a.make_disks(guest)
    assert world.a.claim(guest).returncode == 0
    vm = world.a.run_vm(guest, cache="writeback")
    world.a.wait_for(guest, lambda found: found["files"][0]["guard"] == "pinned")
    assert world.locked(guest.paths[0])
    time.sleep(2)
    assert world.a.log().count(f"{guest.paths[0]} pinned") == 1, world.a.log()
    assert world.a.check(guest.name)["exit"] == 0
    vm.kill()


def test_a_qemu_with_a_cache_is_frozen_when_it_is_cut_off_and_fenced_once_another_host_had_its_disk(
    world: World,
) -> None:
    a, b = world.a, world.b
    guest = world.new()
    world.delegated(guest.paths[0])
    a.make_disks(guest)
    vm = start(a, guest, cache="writeback")
    world.lab.partition(a.host)
    try:
        wait_until("it is frozen", lambda: "vm.freeze" in codes(a, guest), LEASE, a.log)
        wait_until("B has the disk", lambda: not b.claim(guest).returncode, 4 * LEASE, b.log)
    finally:
        world.lab.heal(a.host)
    wait_until("it is fenced", lambda: dead(vm), 40, a.log)
    assert "lock.lost" in codes(a, guest)
    assert "vm.thaw" not in codes(a, guest)
    b.hook(guest, "release")
    b.wait_released(guest)
    a.wait_released(guest, 30)


def test_a_qemu_with_a_cache_over_a_reboot_of_the_storage(world: World) -> None:
    """The server delegates the file when its open is reclaimed, and the client keeps the lock to itself.

    When the grace period is over the daemon brings it to the server.
    """
    a, b = world.a, world.b
    guest = world.new()
    world.delegated(guest.paths[0])
    a.make_disks(guest)
    vm = start(a, guest, cache="writeback")
    assert world.locked(guest.paths[0])
    world.server.reboot(down=LEASE)
    wait_until("it goes on", lambda: "vm.thaw" in codes(a, guest), 6 * LEASE, a.log)
    stayed = not world.locked(guest.paths[0])  # nearly always; the server decides
    wait_until("its lock is on the server", lambda: world.locked(guest.paths[0]), 6 * LEASE, a.log)
    if stayed:
        wait_until("the daemon did it", lambda: "had stayed in this host's NFS client" in a.log(), 10, a.log)
    refused = b.claim(guest)
    assert refused.returncode != 0
    assert "hyp-a" in refused.stderr, refused.stderr
    assert world.locked(guest.paths[0])
    before = vm.beats().count(".")
    wait_until("it writes", lambda: vm.beats().count(".") > before, 20, a.log)
    assert "E" not in vm.beats()
    assert not {"lock.lost", "vm.fence"} & set(codes(a, guest))
    vm.kill()
    a.wait_released(guest, 30)


def test_a_vm_without_a_claim_is_taken_up_with_a_lock_on_the_server(world: World) -> None:
    guest = world.new()
    world.a.make_disks(guest)
    world.delegated(f"{SHARE}/{guest.name}.other")
    vm = world.a.run_vm(guest, cache="writeback")
    world.a.wait_for(guest, lambda found: found["files"] and found["files"][0]["guard"] == "pinned")
    assert world.locked(guest.paths[0])
    time.sleep(2)
    assert world.a.log().count(f"{guest.paths[0]} pinned") == 1, world.a.log()
    vm.kill()


@pytest.mark.parametrize("way", ["beside", "again"])
def test_a_lock_beside_qemu_and_one_taken_again_are_on_the_server(world: World, way: str) -> None:
    """The first where the kernel does not let the daemon copy QEMU's descriptor; the second of a lock that was lost."""
    path = world.delegated()
    with world.way_to_a_lock(way, path):
        assert world.locked(path)


@pytest.mark.parametrize("way", ["beside", "again"])
def test_control_where_nobody_looks_such_a_lock_stays_in_the_client(world: World, way: str) -> None:
    path = world.delegated()
    with world.way_to_a_lock(way, path, "keep"):
        assert not world.locked(path)


def test_the_claim_of_an_incoming_vm_is_on_the_server(world: World) -> None:
    """Copied storage: the target's libvirt has just made the disk, so the server has delegated it to the target."""
    guest = world.new()
    path = world.delegated(guest.paths[0])
    assert world.a.hook(guest, "migrate").returncode == 0
    claimed = world.a.claim(guest)
    assert claimed.returncode == 0, claimed.stderr
    assert world.locked(path)
    world.a.hook(guest, "release")


def test_control_an_incoming_claim_that_does_not_look_stays_in_the_client_and_is_refused(world: World) -> None:
    guest = world.new()
    path = world.delegated(guest.paths[0])
    world.a.host.put("/root/careless.py", _CARELESS.encode())
    assert world.a.hook(guest, "migrate").returncode == 0
    command = [PYTHON, "-IS", "/root/careless.py", guest.name, "prepare", "begin", "-"]
    refused = world.a.host.run(command, 30, check=False, input=guest.xml)
    assert refused.returncode != 0
    assert "it has not left this host's NFS client" in refused.stderr, refused.stderr
    assert not world.locked(path)


def test_what_cannot_be_locked_on_the_server_is_refused_and_never_called_ok(world: World) -> None:
    """Nobody may make a second name in that folder, so the client cannot be made to give the delegation back."""
    guest = Guest("closed", (f"{CLOSED}/disk.raw",))
    path = guest.paths[0]
    world.server.run(f"truncate -s 4M {path}; chmod 666 {path}; chmod 755 {CLOSED}")
    world.a.host.mount(world.server, CLOSED, export=CLOSED)
    make = f"python3 -c \"open('{path}', 'r+b').write(b'made here')\""
    world.a.host.run(make)

    refused = world.a.claim(guest)
    assert refused.returncode != 0
    assert "has delegated the file to this host" in refused.stderr, refused.stderr
    assert "delegation_watermark" in refused.stderr, refused.stderr
    assert not world.locked(path)

    watermark = "/sys/module/nfsv4/parameters/delegation_watermark"  # the cure that the message names
    world.a.host.run(f"echo 0 > {watermark}; head -c1 {path} > /dev/null; sleep 1; echo 5000 > {watermark}")
    assert world.a.claim(guest).returncode == 0
    assert world.locked(path)
    world.a.hook(guest, "release")
    world.a.wait_released(guest)

    vm = world.a.run_vm(guest, cache="writeback")
    found = world.a.wait_for(guest, lambda found: found["files"] and "delegation" in str(found["files"][0]))
    assert found["files"][0]["guard"] != "pinned"
    assert world.a.check(guest.name)["exit"] != 0
    vm.kill()
    world.a.wait_released(guest)

    world.server.run(f"chown 64055 {CLOSED} {path}")  # the disk's owner may make names there, root still may not
    world.a.host.run(make)
    claimed = world.a.claim(guest)
    assert claimed.returncode == 0, claimed.stderr
    assert world.locked(path)
    vm = world.a.run_vm(guest, cache="writeback")
    world.a.wait_for(guest, lambda found: found["files"][0]["guard"] == "pinned")
    assert world.locked(path)
    vm.kill()


def test_the_doctor_finds_nothing_wrong_with_such_a_server(world: World) -> None:
    said = json.loads(world.a.host.run([VMGUARD, "doctor", "--json", SHARE], 60, check=False).stdout)
    found = {item["check"]: item for item in said["findings"] if item["subject"] == SHARE}
    assert [found[check]["level"] for check in ("storage.lock", "storage.probe", "mount.delegations")] == ["OK"] * 3
    assert "write delegations" in found["mount.delegations"]["text"]


def test_a_dead_host_keeps_no_delegation_of_a_record(world: World) -> None:
    """Neither of one that it wrote nor of one that it read: a start, and a check, would wait for a whole lease."""
    held, free = world.new(), world.new()
    for guest in (held, free):
        world.b.make_disks(guest)
        assert world.b.claim(guest).returncode == 0
    world.b.hook(free, "release")
    world.b.wait_released(free)
    for guest in (held, free):
        world.b.check(guest.name)
        world.b.host.run([VMGUARD, "history", guest.name], 30, check=False)
    world.b.host.run([VMGUARD, "doctor", SHARE], 60, check=False)
    world.b.host.power_cut()

    for what in (lambda: world.a.check(held.name), lambda: world.a.claim(held), lambda: world.a.claim(free)):
        began = time.monotonic()
        answer = what()
        assert time.monotonic() - began < AT_ONCE, answer
    assert "hyp-b" in world.a.claim(held).stderr
    assert world.locked(free.paths[0])


class Cached:
    """Two hosts of a server that delegates, and a lock that lives in the first one's delegation."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server = lab.nfs_server(lease=LEASE, grace=LEASE, kernel="6.12")
        self.a, self.b = lab.hypervisor("hyp-a", kernel="6.12"), lab.hypervisor("hyp-b", kernel="6.12")
        for host in (self.a, self.b):
            host.mount(self.server)

    def lock(self, name: str) -> Locker:
        path = f"{SHARE}/{name}"
        self.a.run(["qemu-img", "create", "-q", "-f", "raw", path, "4M"])
        disk = self.a.locker(path, "rw,direct")
        assert (disk.lock(), disk.write()) == ("ok", "ok")
        assert "POSIX" not in self.server.locks()
        return disk


def test_what_a_rival_a_reboot_and_a_cut_do_to_a_lock_that_lives_in_a_delegation() -> None:
    """What is left where it cannot be given back: it keeps others out, but they wait, and a cut costs it."""
    try:
        kernel("6.12")
    except LabUnavailable as problem:
        pytest.skip(str(problem))
    with Lab() as lab:
        place = Cached(lab)

        mine = place.lock("rival.raw")
        rival = place.b.locker(f"{SHARE}/rival.raw", "rw,direct")
        assert (rival.lock(), mine.write()) == ("EAGAIN", "ok")
        assert "POSIX" in place.server.locks(), "the client sends its lock before it gives the delegation back"
        rival.close()
        mine.close()

        mine = place.lock("reboot.raw")
        place.server.reboot()
        assert mine.write(timeout=60) == "ok"
        rival = place.b.locker(f"{SHARE}/reboot.raw", "rw,direct")
        assert (rival.lock(timeout=60), mine.write()) == ("EAGAIN", "ok")
        rival.close()
        mine.close()

        wait_until("no lock is left", lambda: "POSIX" not in place.server.locks(), 20, place.server.locks)
        mine = place.lock("cut.raw")
        lab.partition(place.a)
        began = time.monotonic()
        place.b.run(["dd", "if=/dev/null", f"of={SHARE}/cut.raw", "conv=notrunc"], 3 * LEASE)
        assert time.monotonic() - began > LEASE / 2, "the open waits for the delegation, which ends with the lease"
        assert place.b.locker(f"{SHARE}/cut.raw", "rw,direct").lock() == "ok"
        lab.heal(place.a)
        assert mine.write(timeout=60) == "EIO"
