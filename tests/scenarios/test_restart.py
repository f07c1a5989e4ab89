"""The daemon is killed at every step of a VM's life: the next one shows the same table, and no rival ever got in.

Something keeps its descriptors meanwhile and starts the next one (tests/scenarios/kept.py), as systemd would.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, NfsServer
from tests.scenarios.guarded import Guarded, Guest
from tests.scenarios.kept import Stored, until
from tests.scenarios.prober import Prober
from vmguard.faults import DAEMON_POINTS

pytestmark = pytest.mark.lab

FIELDS = ("mode", "role", "source", "ranges", "pieces", "guard", "weaker")
CONFIG = "hook: {wait: 3s}\n"
#: the hook has not been told yet that its claim was accepted: it refuses the start
REFUSED = ("accept-before-state", "accept-before-store", "accepted")
#: passed when the VM is over
AT_THE_END = DAEMON_POINTS[DAEMON_POINTS.index("ended") :]
#: seconds by which the moments of two guests may be compared wrongly
CLOCKS = 0.05

Cluster = tuple[NfsServer, Stored, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=10)
        a = Stored(lab.hypervisor("hyp-a"), CONFIG)
        b = Guarded(lab.hypervisor("hyp-b"), CONFIG)
        for node in (a, b):
            node.mount(server)
        b.install()
        a.start_daemon()
        yield server, a, b


def now(node: Guarded) -> float:
    """The guest's clock; all guests read this machine's."""
    return float(node.host.run("date +%s.%N").stdout)


def shown(node: Guarded, guest: Guest) -> list[dict[str, Any]]:
    """What ``vmguard status`` shows of the guard of the VM's files, apart from names and numbers."""
    vm = node.guarded(guest)
    if vm is None:
        return []
    return [{key: file[key] for key in FIELDS} for file in vm["files"]]


def descriptors(node: Guarded, pid: int, path: str) -> set[str]:
    """Which of a process's descriptors are of that file, from /proc."""
    text = node.host.run(f"ls -l /proc/{pid}/fd").stdout
    return {f"descriptor {number} of pid {pid}" for number in re.findall(rf"(\d+) -> {re.escape(path)}$", text, re.M)}


def is_pinned_as_qemu_has_it(node: Guarded, guest: Guest) -> bool:
    vm = node.guarded(guest)
    if vm is None or vm["state"] != "running" or len(vm["files"]) != 1:
        return False
    [file] = vm["files"]
    return file["guard"] == "pinned" and file["through"] in descriptors(node, vm["pid"], file["path"])


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> list[dict[str, Any]]:
    """The table of an ordinary VM whose daemon nobody kills."""
    _, a, _ = cluster
    guest = Guest("ordinary")
    a.make_disks(guest)
    vm = a.start_vm(guest, "off")  # as on Proxmox: the daemon keeps copies of its descriptions all the time
    found = shown(a, guest)
    assert [(file["guard"], file["mode"], file["ranges"]) for file in found] == [
        ("pinned", "exclusive", "0, 2-99, 300-EOF")
    ]
    vm.kill()
    a.wait_released(guest)
    return found


def test_there_are_enough_points() -> None:
    assert len(set(DAEMON_POINTS)) == len(DAEMON_POINTS) >= 12


@pytest.mark.parametrize("point", DAEMON_POINTS)
def test_a_daemon_killed_at_any_point_loses_nothing(
    cluster: Cluster, expected: list[dict[str, Any]], point: str
) -> None:
    _, a, b = cluster
    guest = Guest(point)
    a.make_disks(guest)
    a.start_daemon({"VMGUARD_FAULT": point})
    deaths, lives = a.told("ended"), a.told("ready")
    with Prober(b.host, *guest.paths) as rival:
        claimed = a.claim(guest)
        if point in REFUSED:
            assert claimed.returncode == 1, claimed
            a.wait_told("ready", lives + 1)
            a.hook(guest, "release")
            a.wait_released(guest, 40)
            claimed = a.claim(guest)
        assert claimed.returncode == 0, claimed.stderr
        began = now(a)
        vm = a.run_vm(guest, "off")
        vm.wait_beats(2)
        if point not in AT_THE_END:
            a.wait_told("ended", deaths + 1)
            a.wait_told("ready", lives + 1)
        until(
            lambda: is_pinned_as_qemu_has_it(a, guest) and shown(a, guest) == expected,
            lambda: f"{a.guarded(guest)}\n{a.log()}",
        )
        vm.wait_beats(3)
        assert "E" not in vm.beats()
        ended = now(a)
        vm.kill()
        a.wait_told("ended", deaths + 1)
        a.wait_told("ready", lives + 1)
        a.wait_released(guest, 30)
        until(lambda: rival.last > ended + 1, lambda: f"the rival never gets the disk\n{a.log()}", 15)
        time.sleep(0.1)
    assert a.told("ended") == deaths + 1, f"killed otherwise than at {point}: {a.said()}"
    ahead = b.host.clock_offset() - a.host.clock_offset()  # since they were booted, on a busy machine up to 0.3 s
    moments = [moment - ahead for _, moment in rival.moments()]
    too_early = [moment for moment in moments if began + CLOCKS < moment < ended - CLOCKS]
    assert not too_early, f"the rival got in at {too_early}, between {began} and {ended}"
    assert rival.tries > 50
    assert a.names() == [], "the store still has its descriptors"


def test_what_the_store_kept_is_enough_when_the_state_files_are_gone(
    cluster: Cluster, expected: list[dict[str, Any]]
) -> None:
    """Once between claim and pin, and once when the VM runs."""
    _, a, b = cluster
    guest = Guest("forgotten")
    a.make_disks(guest)
    a.start_daemon()

    def forget() -> None:
        pid = re.findall(r"^started (\d+)$", a.said(), re.M)[-1]
        a.host.run(f"kill -STOP {pid}; rm /run/vmguard/vms/*.json")  # it must not write them again
        a.kill_daemon()

    def as_before() -> bool:
        wanted = [{**file, "source": "systemd's descriptor store"} for file in expected]
        return is_pinned_as_qemu_has_it(a, guest) and shown(a, guest) == wanted

    with Prober(b.host, *guest.paths) as rival:
        assert a.claim(guest).returncode == 0
        rival_was_in = len(rival.so_far())
        forget()
        vm = a.run_vm(guest, "off")
        until(as_before, lambda: f"{a.guarded(guest)}\n{a.log()}")
        until(lambda: len(a.names()) == 1, lambda: f"the copy is not kept yet: {a.names()}", 30)
        forget()
        until(as_before, lambda: f"{a.guarded(guest)}\n{a.log()}")
        vm.wait_beats(3)
        assert len(rival.so_far()) == rival_was_in
        vm.kill()
        a.wait_released(guest, 30)
        until(lambda: len(rival.so_far()) > rival_was_in, lambda: f"the rival never gets the disk\n{a.log()}", 15)
    assert a.names() == [], "the store still has its descriptors"


def test_negative_control_without_a_store_a_claim_dies_with_the_daemon(cluster: Cluster) -> None:
    _, _, b = cluster
    b.start_daemon()
    guest = Guest("bare")
    b.make_disks(guest)
    assert b.claim(guest).returncode == 0
    with Prober(cluster[1].host, *guest.paths) as rival:
        assert rival.wins == []
        b.kill_daemon()
        until(rival.so_far, lambda: "the rival does not notice")
