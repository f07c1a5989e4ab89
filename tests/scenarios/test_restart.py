"""The daemon is killed at every step of a VM's life: the next one shows the same table, and no rival ever got in.

Something keeps its descriptors meanwhile and starts the next one (tests/scenarios/kept.py), as systemd would.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab import Job, Lab, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.scenarios.kept import Stored, until
from tests.scenarios.prober import Prober
from tests.support.guarded_guests import RUN_DIR, SHARE, Guarded, Guest
from vmguard.faults import DAEMON_POINTS, FOLLOW_POINTS

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
    for points in (DAEMON_POINTS, FOLLOW_POINTS):
        assert len(set(points)) == len(points) >= 12


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


class Opener:
    """A process in QEMU's place that opens and closes files as it is told."""

    def __init__(self, node: Guarded, guest: Guest) -> None:
        script = f"{REPOSITORY}/tests/scenarios/inside/opener.py"
        words = [f"{RUN_DIR}/{guest.name}.pid", "-uuid", guest.uuid]
        self.job: Job = node.host.spawn([PYTHON, script, *words], stdin=True)
        self._orders = 0

    def do(self, order: str, path: str) -> None:
        self._orders += 1
        self.job.send(f"{order} {path}\n".encode())
        self.job.wait_for(rf"^done {self._orders}$", 20)


def is_pinned_as_it_is_open(node: Guarded, guest: Guest, paths: set[str]) -> bool:
    """Whether these files and no others are pinned, each on the descriptor that the process has it open through."""
    vm = node.guarded(guest)
    if vm is None or vm["state"] != "running" or {file["path"] for file in vm["files"]} != paths:
        return False
    return all(
        file["guard"] == "pinned"
        and file["mode"] == "exclusive"
        and file["through"] in descriptors(node, vm["pid"], file["path"])
        for file in vm["files"]
    )


@pytest.mark.parametrize("point", FOLLOW_POINTS)
def test_a_daemon_killed_while_it_follows_a_running_vm_loses_nothing(cluster: Cluster, point: str) -> None:
    """The VM opens its disk anew, opens a file that no hook announced, closes that, and its second disk."""
    _, a, b = cluster
    disk, second, plugged = (f"{SHARE}/{point}-{name}.raw" for name in ("disk", "second", "plugged"))
    guest = Guest(f"follows-{point}", (disk, second))
    a.host.run(["truncate", "-s", "1M", disk, second, plugged])

    def wait_pinned(*paths: str) -> None:
        until(
            lambda: is_pinned_as_it_is_open(a, guest, set(paths)),
            lambda: f"{paths} at {point}: {a.guarded(guest)}\n{a.log()}",
        )

    def close(path: str, *left: str) -> None:
        """A rival gets it then, and not before."""
        with Prober(b.host, path) as rival:
            time.sleep(0.2)
            assert rival.so_far() == []
            qemu.do("close", path)
            wait_pinned(*left)
            until(rival.so_far, lambda: f"{path} is closed and stays locked\n{a.log()}")

    a.start_daemon()
    assert a.claim(guest).returncode == 0
    qemu = Opener(a, guest)
    for path in (disk, second):
        qemu.do("open", path)
    wait_pinned(disk, second)
    a.start_daemon({"VMGUARD_FAULT": point})
    wait_pinned(disk, second)
    deaths = a.told("ended")
    with Prober(b.host, disk) as rival:
        for _ in range(2):
            qemu.do("anew", disk)
            wait_pinned(disk, second)
        qemu.do("open", plugged)
        wait_pinned(disk, second, plugged)
        close(plugged, disk, second)
        close(second, disk)
        assert rival.so_far() == []
    assert rival.tries > 20
    assert a.told("ended") == deaths + 1, f"killed otherwise than at {point}: {a.said()}"
    qemu.job.end_input()
    a.wait_released(guest, 30)
    kept: Callable[[], list[str]] = lambda: [name for name in a.names() if guest.uuid in name]  # noqa: E731
    until(lambda: kept() == [], lambda: f"the store still has its descriptors: {kept()}", 30)


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
