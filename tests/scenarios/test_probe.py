"""Probes on servers that answer SEEK in other ways: a gateway in front of nfsd is such a server for hypervisor A.

B mounts nfsd itself. The control of each is the same run with a gateway that changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.guest import PYTHON
from tests.lab.qemu import EMULATOR, Vm
from tests.scenarios.gateway import mount_through, set_mode, start_gateway
from tests.support.guarded_guests import RUN_DIR, Guarded, Guest
from tests.support.watched_guests import LEASE, codes, dead, history, vmguard, wait_until

pytestmark = pytest.mark.lab

_CONFIG = "hook: {wait: 0s}\n"
#: opens the disk as QEMU does with cache=writeback, libvirt's default, and does nothing
_IDLE = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
open(sys.argv[2], "w").write(str(os.getpid()))
print("open", flush=True)
time.sleep(9999)
"""
NO_SEEK = "READ (the server has no SEEK)"

Cluster = tuple[Lab, NfsServer, Guarded, Guarded]


@contextmanager
def cluster(seek: str, version: str = "4.2") -> Iterator[Cluster]:
    """Start a server, its gateway, A behind the gateway, and B."""
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=LEASE)
        a, b = (Guarded(lab.hypervisor(name), _CONFIG) for name in ("hyp-a", "hyp-b"))
        start_gateway(server, seek)
        mount_through(server, a, version)
        b.mount(server)
        a.start_daemon()
        b.start_daemon()
        yield lab, server, a, b


def claimed(node: Guarded, name: str = "web") -> Guest:
    guest = Guest(name)
    node.make_disks(guest)
    answer = node.claim(guest)
    assert answer.returncode == 0, answer.stderr
    return guest


def run_vm(node: Guarded, guest: Guest, cache: str) -> Vm:
    drive = f"file={guest.paths[0]},format=raw,file.locking=off,if=virtio,cache={cache},werror=report"
    identity = ["-name", f"guest={guest.name}", "-uuid", guest.uuid, "-pidfile", f"{RUN_DIR}/{guest.name}.pid"]
    machine = ["-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-serial", "stdio"]
    vm = Vm(node.host.spawn([EMULATOR, *identity, *machine, "-drive", drive]))
    vm.wait_beats(2)
    return vm


def wait_pinned(node: Guarded, guest: Guest) -> None:
    node.wait_for(guest, lambda found: all(file["guard"] == "pinned" for file in found["files"]))


def probes(node: Guarded) -> str:
    """Return how the locks are probed, as ``vmguard status`` says it; empty: by SEEK."""
    lines = vmguard(node, "status").splitlines()
    return next((line.partition("probes: ")[2] for line in lines if "probes: " in line), "")


def take_over(b: Guarded, guest: Guest) -> None:
    deadline = time.monotonic() + 40
    while b.claim(guest).returncode:
        assert time.monotonic() < deadline, "B never got the disk"
        time.sleep(0.3)


@pytest.mark.parametrize("seek", ["absent", "odd", "plain"])
def test_an_idle_vm_is_frozen_before_another_host_may_have_its_disk(seek: str) -> None:
    with cluster(seek) as (lab, _, a, b):
        guest = claimed(a)
        qemu = a.host.spawn([PYTHON, "-c", _IDLE, guest.paths[0], f"{RUN_DIR}/web.pid", "-uuid", guest.uuid])
        qemu.wait_for("^open", 20)
        wait_pinned(a, guest)
        time.sleep(4)
        assert a.check("web")["status"] == "OK", a.log()
        assert probes(a).startswith("READ") == (seek != "plain")
        lab.partition(a.host)
        cut = time.monotonic()
        wait_until("it is frozen", lambda: "vm.freeze" in codes(a, guest), LEASE, a.log)
        assert time.monotonic() - cut < LEASE
        take_over(b, guest)
        lab.heal(a.host)
        wait_until("it is fenced", lambda: qemu.poll() is not None, 40, a.log)
        assert "lock.lost" in codes(a, guest)
        assert "vm.thaw" not in codes(a, guest)


@pytest.mark.parametrize(
    ("seek", "version", "cache"),
    [("absent", "4.2", "none"), ("absent", "4.2", "writeback"), ("plain", "4.1", "writeback")],
)
def test_a_busy_vm_whose_lock_is_lost_is_fenced(seek: str, version: str, cache: str) -> None:
    with cluster(seek, version) as (lab, _, a, b):
        guest = claimed(a)
        vm = run_vm(a, guest, cache)
        wait_pinned(a, guest)
        time.sleep(4)
        assert a.check("web")["status"] == "OK", a.log()
        assert "vm.freeze" not in codes(a, guest)
        lab.partition(a.host)
        wait_until("it is frozen", lambda: "vm.freeze" in codes(a, guest), LEASE, a.log)
        take_over(b, guest)
        lab.heal(a.host)
        wait_until("it is fenced", lambda: dead(vm), 40, a.log)
        assert "lock.lost" in codes(a, guest)
        assert "vm.thaw" not in codes(a, guest)


def test_an_odd_answer_leaves_a_healthy_vm_running_and_is_said() -> None:
    with cluster("odd") as (_, _, a, _):
        guest = claimed(a)
        vm = run_vm(a, guest, "none")
        time.sleep(2 * LEASE)
        vm.wait_beats(3)
        assert a.check("web")["status"] == "OK", a.log()
        assert "vm.freeze" not in codes(a, guest)
        why = "READ (the server answers SEEK with EINVAL)"
        assert probes(a) == why
        assert f"probes: {why}" in vmguard(a, "timing")
        assert any(entry["code"] == "mount.probe-kind" and why in entry["text"] for entry in history(a))
        assert f"locks are probed by {why}" in vmguard(a, "doctor", "/srv/vm", "--verbose")


def test_seek_that_disappears_is_noticed_and_comes_back_with_a_new_mount() -> None:
    with cluster("plain") as (lab, server, a, b):
        guest = claimed(a)
        vm = run_vm(a, guest, "writeback")
        wait_pinned(a, guest)
        time.sleep(4)
        assert probes(a) == ""
        set_mode(server, "absent")
        wait_until("it is asked by READ", lambda: probes(a) == NO_SEEK, 10, a.log)
        set_mode(server, "plain")
        time.sleep(4)
        assert probes(a) == NO_SEEK, "the client never sends a SEEK again"
        assert a.check("web")["status"] == "OK", a.log()
        lab.partition(a.host)
        wait_until("it is frozen", lambda: "vm.freeze" in codes(a, guest), LEASE, a.log)
        take_over(b, guest)
        lab.heal(a.host)
        wait_until("it is fenced", lambda: dead(vm), 40, a.log)
        a.wait_released(guest, 30)
        a.host.run("umount /srv/vm", 60)
        mount_through(server, a)
        other = claimed(a, "other")
        run_vm(a, other, "none")
        wait_pinned(a, other)
        time.sleep(4)
        assert (probes(a), a.check("other")["status"]) == ("", "OK"), a.log()
