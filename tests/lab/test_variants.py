"""The lab's other shapes: clones, stale addresses, more exports and servers, other NFS versions, paused guests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import CommandFailed, Hypervisor, Lab, NfsServer

pytestmark = pytest.mark.lab


class Zoo:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server: NfsServer = lab.nfs_server(
            root_squash=True, nfs3=True, more_exports={"/srv/second": "rw,insecure,no_subtree_check,no_root_squash"}
        )
        self.other: NfsServer = lab.nfs_server("storage-2", mac="random")
        self.a: Hypervisor = lab.hypervisor("hyp-a")
        self.clone: Hypervisor = lab.hypervisor("clone", hostname="hyp-a")
        lab.start()


@pytest.fixture(scope="module")
def zoo() -> Iterator[Zoo]:
    with Lab() as lab:
        yield Zoo(lab)


def mac(guest: NfsServer) -> str:
    return guest.run("cat /sys/class/net/vec0/address").stdout


def test_root_is_squashed_on_one_export_and_not_on_the_other(zoo: Zoo) -> None:
    zoo.a.mount(zoo.server)
    zoo.a.mount(zoo.server, "/srv/second", export="/srv/second")
    zoo.a.run("touch /srv/vm/mine /srv/second/mine")
    assert zoo.a.run("stat -c %U /srv/vm/mine /srv/second/mine").stdout.split() == ["nobody", "root"]


@pytest.mark.parametrize(
    "options", ["vers=3", "vers=4.1", "vers=4.2,softerr,timeo=30,retrans=1,nosharecache", "vers=4.2,ro"]
)
def test_other_mounts(zoo: Zoo, options: str) -> None:
    zoo.a.mount(zoo.server, "/mnt/other", options=options)
    assert options.split(",")[0] in zoo.a.run("grep /mnt/other /proc/mounts").stdout
    if "ro" not in options.split(","):
        disk = zoo.a.locker(f"/mnt/other/{options[:8]}", "rw,create")
        assert disk.lock() == "ok"
        disk.close()
    zoo.a.run("umount /mnt/other")


def test_a_second_server_is_another_server(zoo: Zoo) -> None:
    zoo.a.mount(zoo.other, "/mnt/second-server")
    zoo.a.run("echo here > /mnt/second-server/file")
    assert zoo.other.get("/srv/vm/file") == b"here\n"
    with pytest.raises(CommandFailed):
        zoo.server.get("/srv/vm/file")
    zoo.a.run("umount /mnt/second-server")


def test_a_random_mac_changes_at_each_boot_and_a_fixed_one_does_not(zoo: Zoo) -> None:
    before = mac(zoo.other), mac(zoo.server)
    zoo.other.reboot()
    assert mac(zoo.other) != before[0]
    assert mac(zoo.server) == before[1]


def test_a_clone_takes_the_locks_of_its_twin_away_by_mounting(zoo: Zoo) -> None:
    ours = zoo.a.locker("/srv/second/disk")
    assert ours.lock(timeout=40) == "ok"
    assert zoo.clone.run("hostname").stdout == "hyp-a\n"
    assert zoo.clone.get("/etc/machine-id") != zoo.a.get("/etc/machine-id")
    zoo.clone.mount(zoo.server, "/srv/second", export="/srv/second")
    theirs = zoo.clone.locker("/srv/second/disk")
    assert theirs.lock(timeout=30) == "ok"
    assert ours.write(timeout=30) == "EIO"
    zoo.clone.power_cut()


def test_files_survive_a_power_cut_right_after_they_were_made(zoo: Zoo) -> None:
    zoo.a.run("mkdir /srv/second/new; echo text > /srv/second/new/file")
    zoo.server.put("/srv/second/own", b"made on the server itself")
    zoo.server.reboot()
    assert zoo.server.get("/srv/second/new/file") == b"text\n"
    assert zoo.server.get("/srv/second/own") == b"made on the server itself"


def test_a_paused_guest_stands_still_and_its_clock_goes_on(zoo: Zoo) -> None:
    ticking = zoo.a.spawn("while :; do date; sleep 0.1; done")
    ticking.wait_for("202")
    zoo.a.pause()
    time.sleep(0.3)
    before = ticking.output()
    time.sleep(1.5)
    assert ticking.output() == before
    zoo.a.resume()
    deadline = time.monotonic() + 10
    while ticking.output() == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ticking.kill()
    assert abs(zoo.a.clock_offset()) < 1.0


UNIT = b"""[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'
"""


def test_systemd_runs_units_of_ours() -> None:
    with Lab() as lab:
        host = lab.hypervisor("hyp-s", init="systemd")
        assert host.run("systemctl is-system-running --wait", 60).stdout == "running\n"
        host.put("/etc/systemd/system/sleepy.service", UNIT)
        host.run("systemctl daemon-reload && systemctl start sleepy", 60)
        assert host.run("systemctl is-active sleepy").stdout == "active\n"
