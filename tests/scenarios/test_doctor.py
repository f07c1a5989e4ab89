"""`vmguard doctor` on a host that is broken on purpose, one way after the other: it finds each and nothing else; on the
good host it finds nothing. In the lab, because what it says must be what real mounts and real servers do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.hypervisor import Hypervisor
from tests.support.guarded_guests import HOOK, SHARE, VMGUARD, Guarded, Guest

pytestmark = pytest.mark.lab

CONFIG = "unguarded: {take_up: no}\nhosts: {name: hyp-a}\n"
SQUASHED, CLOSED = "/srv/squashed", "/srv/closed"
OTHER = "/srv/other"
#: adjtimex: a clock that somebody keeps (ADJ_STATUS, ADJ_MAXERROR, ADJ_ESTERROR), or nobody
CLOCK = """
import ctypes, struct, sys
b = ctypes.create_string_buffer(208)
struct.pack_into("I4xqqqqi", b, 0, 0x1C, 0, 0, 1000, 1000, int(sys.argv[1]))
assert ctypes.CDLL(None).adjtimex(b) >= 0
"""

Findings = dict[str, str]


@dataclass
class Place:
    lab: Lab
    server: NfsServer
    node: Guarded
    clone: Hypervisor

    @property
    def host(self) -> Hypervisor:
        return self.node.host

    def doctor(self, *words: str, timeout: float = 60.0) -> tuple[int, Findings]:
        """The exit status, and what is not OK: check -> level and text."""
        answer = self.host.run([VMGUARD, "doctor", "--json", *words], timeout, check=False)
        said: dict[str, Any] = json.loads(answer.stdout)
        assert "findings" in said, said
        found = [item for item in said["findings"] if item["level"] != "OK"]
        assert all(item["why"] and item["mend"] for item in found), found
        return answer.returncode, {item["check"]: f"{item['level']} {item['text']}" for item in found}

    def clock(self, synchronised: bool) -> None:
        self.host.run(["python3", "-c", CLOCK, "0" if synchronised else "64"])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab() as lab:
        options = "rw,sync,insecure,no_subtree_check,root_squash"
        server = lab.nfs_server(lease=30, grace=30, nfs3=True, more_exports={SQUASHED: options, CLOSED: options})
        node = Guarded(lab.hypervisor("hyp-a"), CONFIG)
        found = Place(lab, server, node, lab.hypervisor("hyp-c", hostname="hyp-a"))
        node.host.put("/etc/machine-id", b"a" * 32 + b"\n")
        found.clone.put("/etc/machine-id", b"c" * 32 + b"\n")
        node.host.run([VMGUARD, "doctor", "--fix", "identity"], 30)
        node.mount(server)
        node.start_daemon()
        found.clock(True)
        server.run(f"chown 64055:64055 {SQUASHED}; chmod 700 {SQUASHED}; chown 12345 {CLOSED}; chmod 700 {CLOSED}")
        server.run(f"chmod 750 {SHARE}")
        yield found


def test_on_the_good_host_there_is_nothing_to_find(place: Place) -> None:
    assert place.doctor() == (0, {})


def test_the_servers_name_for_this_host_is_the_id_that_the_doctor_made(place: Place) -> None:
    conf = place.host.get("/etc/modprobe.d/vmguard-nfs.conf").decode()
    unique_id = conf.rpartition("nfs4_unique_id=")[2].strip()
    assert any(f"{unique_id}/hyp-a" in client.name for client in place.server.clients()), place.server.clients()
    again = json.loads(place.host.run([VMGUARD, "doctor", "--fix", "identity", "--json"], 30).stdout)
    assert [step["state"] for step in again["steps"]] == ["already"]
    assert place.host.get("/etc/modprobe.d/vmguard-nfs.conf").decode() == conf


# -- broken on purpose ----------------------------------------------------------------------------------------------


@contextmanager
def mounted(place: Place, options: str, export: str = SHARE) -> Iterator[None]:
    place.host.mount(place.server, OTHER, options, export)
    try:
        yield
    finally:
        place.host.run(["umount", OTHER], 30)


@contextmanager
def shell(place: Place, break_it: str, mend_it: str) -> Iterator[None]:
    place.host.run(break_it, 30)
    try:
        yield
    finally:
        place.host.run(mend_it, 30)


@contextmanager
def configured(place: Place, more: str) -> Iterator[None]:
    place.host.put("/etc/vmguard/conf.d/broken.yaml", more.encode())
    try:
        yield
    finally:
        place.host.run(["rm", "-rf", "/etc/vmguard/conf.d"])


@contextmanager
def unsynchronised(place: Place) -> Iterator[None]:
    place.clock(False)
    try:
        yield
    finally:
        place.clock(True)


@contextmanager
def without_daemon(place: Place) -> Iterator[None]:
    place.node.kill_daemon()
    try:
        yield
    finally:
        place.node.start_daemon()


@contextmanager
def disarmed(place: Place) -> Iterator[None]:
    place.host.run([VMGUARD, "disarm", "--for", "5m", "--reason", "a test"], 20, check=False)
    try:
        yield
    finally:
        place.host.run([VMGUARD, "arm"], 20)


@contextmanager
def foreign_writer(place: Place) -> Iterator[None]:
    """The server writes by itself, as a host without vmguard would."""
    writer = place.server.spawn(["sh", "-c", f"while sleep 0.2; do date > {SHARE}/foreign.raw; sync; done"])
    try:
        yield
    finally:
        writer.kill()
        place.server.run(["rm", "-f", f"{SHARE}/foreign.raw"])


@contextmanager
def unguarded_vm(place: Place) -> Iterator[None]:
    """Started as Proxmox or an admin would by hand: nobody asked a hook."""
    guest = Guest("stray")
    place.node.make_disks(guest)
    vm = place.node.run_vm(guest)
    try:
        vm.wait_beats(2)
        yield
    finally:
        vm.kill()
        place.host.run(["rm", "-f", *guest.paths])


MODULE = "/sys/module/nfs/parameters"
MODPROBE = "/etc/modprobe.d/vmguard-nfs.conf"
BROKEN: dict[str, tuple[Callable[[Place], Any], dict[str, str]]] = {
    "NFSv3": (lambda place: mounted(place, "vers=3,hard"), {"mount.version": "FAIL"}),
    "NFSv4.0": (
        lambda place: mounted(place, "vers=4.0,hard"),
        {"mount.version": "FAIL", "mount.two-ways": "WARN"},
    ),
    "NFSv3 nolock": (
        lambda place: mounted(place, "vers=3,hard,nolock"),
        {"mount.version": "FAIL", "mount.local-locks": "FAIL"},
    ),
    "soft": (
        lambda place: mounted(place, "vers=4.2,soft,nosharecache"),
        {"mount.hard": "FAIL", "mount.two-ways": "WARN"},
    ),
    "softerr": (
        lambda place: mounted(place, "vers=4.2,softerr,nosharecache"),
        {"mount.hard": "FAIL", "mount.two-ways": "WARN"},
    ),
    "two versions of one share": (lambda place: mounted(place, "vers=4.1,hard"), {"mount.two-ways": "WARN"}),
    "read-only": (
        lambda place: mounted(place, "vers=4.2,ro,nosharecache"),
        {"mount.writable": "WARN", "mount.two-ways": "WARN"},
    ),
    "images for everybody": (
        lambda place: shell(
            place, f"chmod 755 {SHARE}; touch -d @1 {SHARE}/a.raw", f"chmod 750 {SHARE}; rm {SHARE}/a.raw"
        ),
        {"storage.modes": "WARN"},
    ),
    "root squashed": (lambda place: mounted(place, "vers=4.2,hard", SQUASHED), {"storage.root": "WARN"}),
    "nobody may write": (lambda place: mounted(place, "vers=4.2,hard", CLOSED), {"storage.root": "FAIL"}),
    "recover_lost_locks": (
        lambda place: shell(place, f"echo Y > {MODULE}/recover_lost_locks", f"echo N > {MODULE}/recover_lost_locks"),
        {"host.recover-lost-locks": "FAIL"},
    ),
    "clock": (unsynchronised, {"host.clock": "WARN"}),
    "identity of a clone": (
        lambda place: shell(
            place, f"sed -i.bak 's/on machine .*/on machine beef/' {MODPROBE}", f"mv {MODPROBE}.bak {MODPROBE}"
        ),
        {"host.identity": "FAIL"},
    ),
    "identity forgotten": (
        lambda place: shell(place, f"mv {MODPROBE} /root/kept", f"mv /root/kept {MODPROBE}"),
        {"host.identity": "WARN"},
    ),
    "hook not executable": (
        lambda place: shell(place, f"chmod 644 {HOOK}", f"chmod 755 {HOOK}"),
        {"libvirt.hook": "FAIL"},
    ),
    "hook gone": (
        lambda place: shell(place, f"mv {HOOK} /root/hook", f"mv /root/hook {HOOK}"),
        {"libvirt.hook": "FAIL"},
    ),
    "hook of a vmguard that was removed": (
        lambda place: shell(
            place, f"sed -i.bak 's#^VMGUARD_LIB=.*#VMGUARD_LIB=/gone#' {HOOK}", f"mv {HOOK}.bak {HOOK}"
        ),
        {"libvirt.hook": "FAIL"},
    ),
    "daemon down": (without_daemon, {"guard.daemon": "FAIL"}),
    "disarmed": (disarmed, {"guard.armed": "WARN"}),
    "policy that ignores": (
        lambda place: configured(place, "watch: {on_at_risk: ignore}"),
        {"guard.armed": "WARN"},
    ),
    "bytes that QEMU needs": (lambda place: configured(place, "windows: {qemu: off}"), {"libvirt.windows": "FAIL"}),
    "watchdog that is not there": (
        lambda place: configured(place, "watch: {host_fence: watchdog, watchdog_device: /dev/no-watchdog}"),
        {"host.watchdog": "FAIL"},
    ),
    "a foreign writer": (foreign_writer, {"storage.foreign-writers": "FAIL"}),
    "an unguarded VM": (unguarded_vm, {"guard.vms": "FAIL"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_and_nothing_else(place: Place, name: str) -> None:
    break_it, wanted = BROKEN[name]
    with break_it(place):
        status, found = place.doctor()
    assert {check: text.split()[0] for check, text in found.items()} == wanted, found
    assert status == (2 if "FAIL" in wanted.values() else 1)


def test_one_share_can_be_examined_alone(place: Place) -> None:
    with mounted(place, "vers=4.2,soft,nosharecache"):
        assert "mount.hard" in place.doctor(OTHER)[1]
        assert "mount.hard" not in place.doctor(SHARE)[1]


def test_a_vm_is_examined_with_its_shares_and_its_disks(place: Place) -> None:
    guest = Guest("linked")
    place.node.make_disks(guest)
    place.host.run(["ln", guest.paths[0], f"{SHARE}/second-name.raw"])
    place.host.put("/etc/libvirt/qemu/linked.xml", guest.xml.encode())
    status, found = place.doctor("linked")
    assert (status, list(found)) == (1, ["disk.paths"]), found
    place.host.run(["rm", "-f", *guest.paths, f"{SHARE}/second-name.raw", "/etc/libvirt/qemu/linked.xml"])


def test_a_dead_server_is_a_finding_in_time_and_no_hanging_doctor(place: Place) -> None:
    place.lab.partition(place.server)
    try:
        began = time.monotonic()
        status, found = place.doctor("--no-proof", timeout=40)
        took = time.monotonic() - began
    finally:
        place.lab.heal(place.server)
    assert status == 2
    assert set(found) == {"storage.answers"}
    assert "did not answer within 5 s" in found["storage.answers"]
    assert took < 10, "5 s for the storage, and what a slow machine adds"
    place.host.run(["ls", SHARE], 60)


def test_a_second_host_with_this_ones_name_is_seen_by_its_claims(place: Place) -> None:
    """Last of all: the clone has no unique id, so the server holds both for one client from here on."""
    clone = Guarded(place.clone, "")
    clone.mount(place.server)
    clone.start_daemon()
    guest = Guest("of-the-clone")
    clone.make_disks(guest)
    claimed = clone.claim(guest)
    assert claimed.returncode == 0, claimed.stderr
    clone.wait_for(guest, lambda found: found["files"][0]["epoch"] == 1)
    _, found = place.doctor()
    assert found.get("storage.twins", "").startswith("WARN another machine calls itself hyp-a"), found
