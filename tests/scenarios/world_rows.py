"""What is tried in a world: acts, each of which fills in rows of a sheet (world_sheet.py).

    starts(site, sheet)       claims, refusals, delegations, hot-plug, a start without its hook
    partition(site, sheet)    A is cut off for longer than a lease; what it still has to write must not land
    cut(site, sheet)          A is cut off as long, and nobody else wants a lock
    reboot(site, sheet)       the storage is off for 30 s; a start in its grace period
    forgotten(site, sheet)    the storage comes back without its list of clients
    takeover(site, sheet)     host A dies; it stays dead
    migration(world, sheet)   a site of its own, with libvirt

A stale VM and its rival write to the second sector: the VM its beats, the rival MARK.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.lab import Lab
from tests.lab.guest import PYTHON
from tests.lab.qemu import Vm
from tests.scenarios.moving import Movers
from tests.support.guarded_guests import HOOK, SHARE, Guest
from tests.support.watched_guests import clean_up, codes, dead, start, started, wait_until
from tests.support.world_sheet import Sheet
from tests.support.worlds import LEASE, SERVERS, SHIELDED, Site, World

MARK: Final = b"BBBB"
SECTOR: Final = 512
BEAT: Final = slice(SECTOR, SECTOR + len(MARK))
#: seconds that a refusal may take, which waits for nobody
AT_ONCE: Final = 8.0
#: seconds behind the lease within which a dead host's disks are free, and seconds before which they must not be: its
#: last request was up to a tenth of the lease old
EARLY: Final = 0.8 * LEASE
LATE: Final = 8.0

#: plugs a disk into a QEMU, by its control socket
_PLUG: Final = """
import json, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
stream = line.makefile("rw")
def ask(command, arguments):
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\\n")
    stream.flush()
    answer = {}
    while not {"return", "error"} & set(answer):
        answer = json.loads(stream.readline())
    assert "return" in answer, answer
stream.readline()
ask("qmp_capabilities", {})
file = {"driver": "file", "filename": sys.argv[2], "locking": "off", "cache": {"direct": True}}
ask("blockdev-add", {"driver": "raw", "node-name": "new", "file": file})
ask("device_add", {"driver": "virtio-blk-pci", "drive": "new", "id": "new-disk"})
"""


def starts(site: Site, sheet: Sheet) -> None:
    a, b = site.a, site.b
    web = Guest("web")
    a.make_disks(web)
    with sheet.row("claim"):
        claimed = a.claim(web)
        assert claimed.returncode == 0, claimed.stderr
        assert site.locked(web.paths[0])
    with sheet.row("refuse"):
        began = time.monotonic()
        refused = b.claim(web)
        assert refused.returncode == 1
        assert "is locked by host hyp-a" in refused.stderr, refused.stderr
        assert time.monotonic() - began < AT_ONCE
        a.hook(web, "release")
        a.wait_released(web)
        site.take_over(web, AT_ONCE)  # the control: nothing but the lock kept it out
        site.let_go(web)
    with sheet.row("delegation"):
        made = Guest("made-here")
        a.host.run(["qemu-img", "create", "-q", "-f", "raw", made.paths[0], "4M"])
        claimed = a.claim(made)
        assert claimed.returncode == 0, claimed.stderr
        assert site.locked(made.paths[0])
        a.hook(made, "release")
        a.wait_released(made)
    _plug(site, sheet)
    with sheet.row("unguarded"):
        guest = Guest("unguarded")
        a.make_disks(guest)
        vm = a.run_vm(guest, "off")
        a.wait_for(guest, lambda found: found["files"] and found["files"][0]["guard"] == "pinned", 30)
        assert b.claim(guest).returncode == 1
        clean_up(a, (guest, vm))


def _plug(site: Site, sheet: Sheet) -> None:
    guest, added = Guest("plugged"), f"{SHARE}/added.raw"
    site.a.make_disks(guest)
    site.a.make_disks(Guest("added"))
    with sheet.row("hot-plug"):
        assert site.a.claim(guest).returncode == 0
        vm = site.a.run_vm(guest, "off", more=("-qmp", "unix:/run/plugged.qmp,server=on,wait=off"))
        vm.wait_beats(2)
        assert not site.locked(added)
        site.a.host.run([PYTHON, "-c", _PLUG, "/run/plugged.qmp", added], 30)
        pinned = {"path": added, "guard": "pinned"}
        site.a.wait_for(guest, lambda found: any(pinned.items() <= file.items() for file in found["files"]), 30)
        assert site.locked(added)
        clean_up(site.a, (guest, vm))


def beat(site: Site, guest: Guest) -> bytes:
    return site.server.get(guest.paths[0])[BEAT]


def mark(site: Site, guest: Guest) -> None:
    """Have host B, which has the disk, write its mark where the VM writes its beats; it may not be there for long."""
    write = f"printf {MARK.decode()} | dd of={guest.paths[0]} bs=1 seek={SECTOR} conv=notrunc,fsync status=none"
    site.b.host.run(write, 30)


@contextmanager
def beside(site: Site, guest: Guest) -> Iterator[Vm]:
    """Run a VM on the host without vmguard, whose lock lies beside QEMU, on a description of its own."""
    site.a.make_disks(guest)
    locker = site.bare.locker(guest.paths[0], "rw,direct")
    assert locker.lock() == "ok"
    vm = site.bare.start_vm(guest.paths[0], format="raw", locking="off")
    vm.wait_beats(2)
    assert site.b.claim(guest).returncode == 1
    yield vm
    if not dead(vm):
        vm.kill()
    locker.close()


def partition(site: Site, sheet: Sheet) -> None:
    guests = {name: Guest(name) for name in (*SHIELDED, "judged")}
    alive, killed, judged = guests.values()
    vms = {}
    for guest in guests.values():
        site.a.make_disks(guest)
        vms[guest.name] = start(site.a, guest, "off")
    kind = _probed_by(site)
    stale = Guest("beside")
    with beside(site, stale) as bare:
        site.lab.partition(site.a.host, site.bare)
        time.sleep(1)  # a write is in each queue by now: the VMs beat 18 times a second
        vms[killed.name].job.kill()
        bare.job.kill()
        for guest in (*guests.values(), stale):
            site.take_over(guest)
            mark(site, guest)
            assert beat(site, guest) == MARK
        site.lab.heal(site.a.host, site.bare)
        with sheet.row("control"):
            wait_until("the stale write lands", lambda: beat(site, stale) != MARK, 60, site.a.log)
    with sheet.row("pin"):
        wait_until("its writes fail", lambda: vms[alive.name].beats().count("E") > 20, 60, site.a.log)
        assert "." not in vms[alive.name].beats().partition("E")[2]
        assert beat(site, alive) == MARK
    with sheet.row("probe") as said:
        wait_until("the judged one is dead", lambda: dead(vms[judged.name]), 60, site.a.log)
        assert {"vm.freeze", "lock.lost"} <= set(codes(site.a, judged))
        assert kind, "no request of the probes was counted"
        assert beat(site, judged) == MARK
        said(kind)
    vms[alive.name].kill()
    with sheet.row("stale"):
        for guest in guests.values():
            site.a.wait_released(guest, 90)
        time.sleep(2)
        assert {beat(site, guest) for guest in guests.values()} == {MARK}
    for guest in (*guests.values(), stale):
        site.let_go(guest)


def _probed_by(site: Site) -> str:
    """Return the request by which the locks are probed, by the mount's own count; the heartbeat VM sends no such."""
    kinds = ("SEEK", "READ")
    before = {kind: site.requests(kind) for kind in kinds}
    time.sleep(4)
    return ", ".join(kind for kind in kinds if site.requests(kind) > before[kind])


def cut(site: Site, sheet: Sheet) -> None:
    guest, vm = started(site.a, "alone")
    with sheet.row("alone") as said:
        site.lab.partition(site.a.host)
        time.sleep(2 * LEASE)
        site.lab.heal(site.a.host)
        wait_until("it is judged", lambda: dead(vm) or "vm.thaw" in codes(site.a, guest), 60, site.a.log)
        killed = dead(vm)
        if not killed:
            vm.wait_beats(3)
        assert ("lock.lost" in codes(site.a, guest)) == killed
        assert "E" not in vm.beats()
        said("killed" if killed else "goes on")
    clean_up(site.a, (guest, vm))


def reboot(site: Site, sheet: Sheet, down: float = 30) -> None:
    a, server = site.a, site.server
    guest, vm = started(a, "kept")
    with sheet.row("reboot"):
        server.reboot(down=down)
        vm.wait_beats(10, timeout=60)
        assert "E" not in vm.beats()
        assert [code for code in codes(a, guest) if code.startswith("vm.")] == ["vm.freeze", "vm.thaw"]
    with sheet.row("grace") as said:
        site.lab.partition(a.host)  # its switch needs longer to come back than the server
        server.reboot()
        assert server.in_grace()
        claim = site.b.host.spawn([HOOK, guest.name, "prepare", "begin", "-"], stdin=True)
        claim.send(guest.xml.encode())
        claim.end_input()
        time.sleep(3)
        assert claim.poll() in (None, 1), claim.output()
        assert server.in_grace(), "it was over before the holder was back"
        site.lab.heal(a.host)
        refused = claim.wait(90)
        assert refused.returncode == 1, refused
        said(refused.stderr.strip().splitlines()[0])
        vm.wait_beats(10, timeout=60)
        assert "E" not in vm.beats()
        assert "lock.lost" not in codes(a, guest)
    clean_up(a, (guest, vm))


def forgotten(site: Site, sheet: Sheet) -> None:
    stale = Guest("forgotten-beside")
    with sheet.row("forgotten"):
        guest, vm = started(site.a, "forgotten")
        with beside(site, stale) as bare:
            site.server.reboot(forget=True)
            wait_until("dead", lambda: dead(vm), 60, site.a.log)
            assert "lock.lost" in codes(site.a, guest)
            assert "." not in vm.beats().partition("E")[2], "a write was accepted after the lock was lost"
            for one in (guest, stale):
                site.take_over(one)
                mark(site, one)
            bare.wait_beats(3, timeout=60)
            assert beat(site, stale) != MARK, "the control's VM does not write over it"
            assert beat(site, guest) == MARK
        site.a.wait_released(guest, 60)
        for one in (guest, stale):
            site.let_go(one)


def takeover(site: Site, sheet: Sheet) -> None:
    with sheet.row("takeover") as said:
        guest, _ = started(site.a, "orphan")
        site.a.host.power_cut()
        took = site.take_over(guest)
        said(f"{took:.1f} s")
        assert EARLY < took < LEASE + LATE
        site.let_go(guest)


def migration(world: World, sheet: Sheet) -> None:
    with Lab() as lab, sheet.row("migration") as said:
        movers = Movers(lab, server=SERVERS[world.server](lab), kernel=world.client)
        movers.start("web")
        began = time.monotonic()
        movers.arrived("web", movers.begin("web"))
        said(f"{time.monotonic() - began:.1f} s until it is guarded there")
        movers.over("web")
