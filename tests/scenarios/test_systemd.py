"""vmguard under a real systemd, by its own unit files: what is kept over restarts, crashes, partitions, and a stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import GuestTimeout, Lab, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.guest import Guest as Host
from tests.scenarios.kept import Stored, Units, until
from tests.scenarios.prober import Prober
from tests.scenarios.test_pin_shield import MARK, beat_on_disk, take_over
from tests.support.guarded_guests import SHARE, Guarded, Guest

pytestmark = pytest.mark.lab

LONG = bool(os.environ.get("VMGUARD_LONG"))
VMS, TIMES = (10, 3) if LONG else (3, 1)
VM_FIELDS = ("name", "uuid", "hypervisor", "state", "pid", "claimed", "frozen")
FIELDS = ("path", "real", "mode", "role", "source", "device", "inode", "ranges", "guard", "weaker", "through", "epoch")
CONFIG = "hook: {wait: 1s}\n"

SCRIPT = f"{REPOSITORY}/tests/scenarios/inside/contract.py"
CONTRACT = f"{PYTHON} {SCRIPT} /run/contract.file /run/contract.log"
KEPT = ["libvirt-00000000-0000-0000-0000-000000000001.1f.2", "libvirt-other"]
AGREED = [
    {"names": ["vmguard.socket"], "free at first": True, "barrier": True, "close-on-exec": [False]},
    {
        "names": ["vmguard.socket", *KEPT],
        "locked by what was kept": True,
        "barrier": True,
        "locked by our own copy": True,
        "free when it is closed": True,
    },
    {"names": ["vmguard.socket"]},
]


class Cluster:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server: NfsServer = lab.nfs_server(lease=10, grace=10)
        self.a = Units(lab.hypervisor("hyp-a", mem="1G", init="systemd"), CONFIG)
        self.b = Guarded(lab.hypervisor("hyp-b"), CONFIG)
        for node in (self.a, self.b):
            node.mount(self.server)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        cluster = Cluster(lab)
        cluster.b.start_daemon()
        yield cluster


def transcript(host: Host) -> list[dict[str, Any]]:
    text = host.run("cat /run/contract.log", check=False).stdout
    found = [json.loads(line) for line in text.splitlines()]
    for turn in found:
        turn["names"] = sorted(turn["names"], key=lambda name: (name != "vmguard.socket", name))
    return found


def keeps_the_contract(host: Host) -> None:
    until(lambda: len(transcript(host)) >= len(AGREED), lambda: str(transcript(host)), 40)
    assert transcript(host) == AGREED


class Contract(Stored):
    daemon_command = (PYTHON, SCRIPT, "/run/contract.file", "/run/contract.log")


def test_the_stand_in_keeps_descriptors_as_the_daemon_needs_it(cluster: Cluster) -> None:
    node = Contract(cluster.lab.hypervisor("hyp-c"))
    node.host.run("touch /run/contract.file")
    node.start_daemon()
    keeps_the_contract(node.host)
    node.host.power_cut()


def test_systemd_keeps_descriptors_as_the_daemon_needs_it(cluster: Cluster) -> None:
    node = cluster.a
    node.host.run("touch /run/contract.file")
    node.start_daemon(command=CONTRACT)
    keeps_the_contract(node.host)
    node.systemctl("stop vmguard.service vmguard.socket")


def table(node: Guarded) -> list[dict[str, Any]]:
    """What ``vmguard status`` shows of the guard, without what changes from second to second."""
    vms = sorted(node.status(), key=lambda vm: str(vm["name"]))
    return [
        {key: vm[key] for key in VM_FIELDS} | {"files": [{key: file[key] for key in FIELDS} for file in vm["files"]]}
        for vm in vms
    ]


def all_pinned(node: Guarded, count: int) -> bool:
    found = node.status()
    return len(found) == count and all(file["guard"] == "pinned" for vm in found for file in vm["files"])


def same_again(node: Units, before: list[dict[str, Any]]) -> None:
    until(lambda: table(node) == before, lambda: f"{table(node)}\n!= {before}\n{node.log()}")


@pytest.mark.timeout(1800)
def test_restarts_and_crashes_with_running_vms_lose_nothing(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    a.start_daemon()
    guests = [Guest(f"vm-{number}") for number in range(VMS)]
    for guest in guests:
        a.make_disks(guest)
    vms = [a.start_vm(guest, "off") for guest in guests]  # as on Proxmox: copies of these are kept all the time
    claimed = Guest("claimed")  # its QEMU is still to come: the lock is on the daemon's own description alone
    a.make_disks(claimed)
    assert a.claim(claimed).returncode == 0
    before = table(a)
    assert {len(vm["files"]) for vm in before} == {1}
    until(lambda: a.kept() == VMS + 1, lambda: f"systemd keeps {a.kept()}: {a.log()}")
    with Prober(b.host, *(path for guest in (*guests, claimed) for path in guest.paths)) as rival:
        for _ in range(TIMES):
            pid = a.pid()
            began = time.monotonic()
            a.systemctl("restart vmguard.service", 60)
            print(f"systemctl restart with {VMS} running VMs: {time.monotonic() - began:.1f} s")
            assert a.pid() != pid
            same_again(a, before)
            assert a.kept() == VMS + 1
        for _ in range(TIMES):
            a.kill_daemon()
            same_again(a, before)
            assert a.kept() == VMS + 1
        a.systemctl("daemon-reload")
        for vm in vms:
            vm.wait_beats(2)
    assert rival.wins == []
    assert rival.tries > 1000
    print(f"the rival tried {rival.tries} times")
    assert all("E" not in vm.beats() for vm in vms)
    for vm in vms:
        vm.kill()
    a.hook(claimed, "release")
    for guest in (*guests, claimed):
        a.wait_released(guest)
    until(lambda: a.kept() == 0, lambda: f"systemd still keeps {a.kept()}")
    assert not a.host.run("ls -l /proc/1/fd | grep /srv/vm", check=False).stdout


def test_control_without_the_store_a_restart_lets_the_rival_in(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    a.start_daemon()
    a.host.run("mkdir -p /run/systemd/system/vmguard.service.d")
    a.host.put("/run/systemd/system/vmguard.service.d/none.conf", b"[Service]\nFileDescriptorStoreMax=0\n")
    a.systemctl("daemon-reload")
    a.systemctl("restart vmguard.service", 60)
    guest = Guest("not-kept")
    a.make_disks(guest)
    assert a.claim(guest).returncode == 0
    with Prober(b.host, *guest.paths) as rival:
        time.sleep(2)
        assert rival.so_far() == []
        a.systemctl("restart vmguard.service", 60)
        until(rival.so_far, lambda: f"the control shows nothing: {a.log()}")
    a.hook(guest, "release")
    a.wait_released(guest)
    a.host.run("rm /run/systemd/system/vmguard.service.d/none.conf")
    a.systemctl("daemon-reload")
    a.systemctl("restart vmguard.service", 60)


def test_a_hook_waits_while_the_daemon_restarts(cluster: Cluster) -> None:
    a = cluster.a
    a.start_daemon()
    guest = Guest("patient")
    a.make_disks(guest)
    a.host.run(["kill", "-9", str(a.pid())])
    assert a.claim(guest).returncode == 0
    a.hook(guest, "release")
    a.wait_released(guest)


def test_a_daemon_that_stands_still_is_restarted(cluster: Cluster) -> None:
    a = cluster.a
    a.start_daemon()
    a.host.run("mkdir -p /run/systemd/system/vmguard.service.d")
    a.host.put("/run/systemd/system/vmguard.service.d/short.conf", b"[Service]\nWatchdogSec=2s\nTimeoutAbortSec=2s\n")
    a.systemctl("daemon-reload")
    a.systemctl("restart vmguard.service", 60)
    before = a.pid()
    time.sleep(6)
    assert a.pid() == before, "the pings do not reach systemd"
    a.host.run(["kill", "-STOP", str(before)])
    a.wait_ready(before)
    a.host.run("rm /run/systemd/system/vmguard.service.d/short.conf")
    a.systemctl("daemon-reload")
    a.systemctl("restart vmguard.service", 60)


def both_killed(cluster: Cluster, guest: Guest, kill_daemon: Any, node: Guarded, locking: str = "off") -> None:
    """QEMU and the daemon are killed while A is cut off; B takes over and writes; A comes back."""
    lab, b = cluster.lab, cluster.b
    vm = node.start_vm(guest, locking)
    vm.wait_beats(3)
    lab.partition(node.host)
    time.sleep(2)  # a write is in the queue by now: the VM beats 18 times a second
    kill_daemon(vm)
    take_over(b, guest)
    assert beat_on_disk(cluster.server, guest) == MARK
    lab.heal(node.host)


def give_back(cluster: Cluster, guest: Guest) -> None:
    cluster.b.hook(guest, "release")
    cluster.b.wait_released(guest)


@pytest.mark.parametrize("locking", ["off", "auto"])
def test_a_stale_write_does_not_land_when_qemu_and_the_daemon_are_both_killed(cluster: Cluster, locking: str) -> None:
    a, server = cluster.a, cluster.server
    a.start_daemon()
    guest = Guest(f"both-{locking}")
    a.make_disks(guest)

    def kill(vm: Any) -> None:
        a.host.run(f"kill -9 {a.pid()} {vm.job.pid}")

    both_killed(cluster, guest, kill, a, locking)
    a.wait_released(guest, 90)
    time.sleep(2)
    assert beat_on_disk(server, guest) == MARK
    give_back(cluster, guest)


@pytest.mark.parametrize("locking", ["off", "auto"])
def test_control_without_the_store_the_stale_write_of_both_killed_lands(cluster: Cluster, locking: str) -> None:
    server = cluster.server
    node = Guarded(cluster.lab.hypervisor(f"hyp-{locking}"), CONFIG)
    node.mount(server)
    node.start_daemon()
    guest = Guest(f"control-both-{locking}")
    node.make_disks(guest)

    def kill(vm: Any) -> None:
        assert node.daemon is not None
        vm.job.kill()
        node.daemon.kill()

    both_killed(cluster, guest, kill, node, locking)
    until(lambda: beat_on_disk(server, guest) != MARK, lambda: "the control shows nothing", 60)
    give_back(cluster, guest)
    node.host.power_cut()


DROP_IN = "/run/systemd/system/vmguard.service.d"
STOP = "systemctl stop --no-block vmguard.socket vmguard.service"
LAST = f"""
import os, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from vmguard.adapters.linux import systemd
systemd.store("libvirt-last", os.open({SHARE!r} + "/last", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
systemd.notify("READY=1")
time.sleep(1000)
"""
CARELESS = f"""[Service]
Type=notify
ExecStart={PYTHON} /etc/last.py
FileDescriptorStoreMax=10
"""


def answers(host: Host) -> bool:
    """Whether PID 1 still takes orders."""
    try:
        host.run("systemctl is-active basic.target", 5, check=False)
    except GuestTimeout:
        return False
    return True


def test_control_pid_1_stands_still_when_it_is_the_last_to_close(cluster: Cluster) -> None:
    lab, host = cluster.lab, cluster.a.host
    host.put("/etc/last.py", LAST.encode())
    host.put("/etc/systemd/system/careless.service", CARELESS.encode())
    host.run("systemctl daemon-reload; systemctl start careless", 30)
    lab.partition(host)
    time.sleep(1)
    host.spawn("systemctl stop careless")
    until(lambda: not answers(host), lambda: "PID 1 does not mind", 20)
    lab.heal(host)
    until(lambda: answers(host), lambda: "PID 1 does not come back", 60)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("times", [50 if LONG else 1])
def test_pid_1_goes_on_when_the_daemon_is_stopped_while_the_storage_is_away(cluster: Cluster, times: int) -> None:
    """A QEMU is killed with a write in flight. The daemon starts programs all the same, and ends when it is told to.

    On Linux 6.12 its loop stood still until the storage was back, in four of five runs: the child that drains closed
    the daemon's descriptors first. Then the daemon was killed, and PID 1 was the last to close.
    """
    for number in range(times):
        took = stopped_while_the_storage_is_away(cluster, f"-{times}-{number}")
        print(f"{number + 1} of {times}: the daemon took {took:.1f} s to stop; PID 1 answered all the time", flush=True)


@pytest.fixture
def for_good(cluster: Cluster) -> Iterator[Units]:
    """A daemon that systemd does not start again: once it has ended, PID 1 lets go of what it keeps."""
    a = cluster.a
    a.start_daemon()
    a.host.put(f"{DROP_IN}/for-good.conf", b"[Service]\nRestart=no\n")
    a.systemctl("daemon-reload")
    yield a
    a.host.run(f"rm {DROP_IN}/for-good.conf; systemctl daemon-reload; systemctl reset-failed vmguard.service", 60)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("times", [20 if LONG else 1])
def test_pid_1_goes_on_when_the_daemon_is_killed_while_the_storage_is_away(
    cluster: Cluster, for_good: Units, times: int
) -> None:
    for number in range(times):
        stopped_while_the_storage_is_away(cluster, f"-killed-{times}-{number}", "kill -9 {}", "failed")
        for_good.systemctl("reset-failed vmguard.service")


def test_control_without_the_keeper_pid_1_stands_still_when_the_daemon_is_killed(
    cluster: Cluster, for_good: Units
) -> None:
    lab, a = cluster.lab, for_good
    waiting = Guest("nobody-keeps")
    a.make_disks(waiting)
    assert a.claim(waiting).returncode == 0
    pid = a.pid()
    lab.partition(a.host)
    time.sleep(1)
    a.host.run(f"kill -9 $(pgrep -f 'vmguard[.]jobs[.]keeper') {pid}")
    until(lambda: not answers(a.host), lambda: "PID 1 does not mind", 20)
    lab.heal(a.host)
    until(lambda: answers(a.host), lambda: "PID 1 does not come back", 60)


def stopped_while_the_storage_is_away(cluster: Cluster, name: str, how: str = STOP, ends: str = "inactive") -> float:
    """End the daemon, and ask PID 1 all the time; return the seconds that it took."""
    lab, a = cluster.lab, cluster.a
    a.start_daemon()
    killed, waiting = Guest(f"stopped{name}"), Guest(f"waiting{name}")
    for guest in (killed, waiting):
        a.make_disks(guest)
    vm = a.start_vm(killed, "off")  # locking=off: its copies are stored, as on Proxmox
    assert a.claim(waiting).returncode == 0  # its QEMU never comes
    lab.partition(a.host)
    time.sleep(1)
    vm.job.kill()
    time.sleep(1)
    began = time.monotonic()
    a.host.run(how.format(a.pid()), 20)
    until(lambda: a.show("ActiveState") == ends, a.log, 40)
    took = time.monotonic() - began
    for _ in range(5):
        assert answers(a.host)
        time.sleep(1)
    a.host.run("systemctl daemon-reload", 20)
    assert "/srv/vm" not in a.host.run("ls -l /proc/1/fd").stdout
    lab.heal(a.host)
    until(lambda: "/srv/vm" not in a.host.run("ls -l /proc/[0-9]*/fd", check=False).stdout, a.log, 90)
    for guest in (killed, waiting):
        until(lambda guest=guest: cluster.b.claim(guest).returncode == 0, a.log, 90)  # type: ignore[misc]
        give_back(cluster, guest)
    return took
