"""Fences on Proxmox, on real kernels: what HA and qm do behind them, swtpm as a second writer, a node that returns."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.pve.cluster import STORE, PveGuest, two_nodes
from tests.scenarios.test_proxmox import CONFIG, LEASE, PINNED, World, disk

pytestmark = pytest.mark.lab

TPM_CONFIG = "nas:120/vm-120-disk-1.raw,size=4M,version=v2.0"
WITH_TPM = {"vm-120-disk-0.raw": PINNED, "vm-120-disk-1.raw": PINNED}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        yield World(lab, *two_nodes(lab, CONFIG))


def start(world: World, vmid: str, name: str) -> int:
    """A VM on node a, pinned and beating; its QEMU."""
    world.guest(vmid, name)
    world.a.qm("start", vmid)
    world.a.wait_until(vmid, disk(vmid))
    world.a.wait_beats(vmid)
    return world.a.pid(vmid)


def test_ha_starts_it_again_after_a_fence_and_before_any_post_stop(world: World) -> None:
    a = world.a
    a.host.run("touch /run/qemu-server/no-qmeventd && mv /usr/sbin/qm /tmp/qm")  # nobody can clean up
    first = start(world, "118", "fenced")
    world.server.expire("hyp-a")
    a.wait_event("118", "fence.clean-up")
    assert a.host.run(["cat", "/run/qemu-server/118.pid"]).stdout.strip() == str(first)
    assert a.ha_start("118") == ("started", 1)
    a.wait_event("118", "fence.done")
    a.wait_until("118", disk("118"))
    a.wait_beats("118")
    assert a.pid("118") not in (0, first)
    a.host.run("rm /run/qemu-server/no-qmeventd && mv /tmp/qm /usr/sbin/qm")
    a.qm("stop", "118")
    world.assert_free("118")


def test_after_a_fence_qm_cleans_up_what_nobody_noticed_and_starts_it_again(world: World) -> None:
    a = world.a
    a.host.run(["touch", "/run/qemu-server/no-qmeventd"])
    first = start(world, "119", "restarts")
    a.host.run(["rm", "/run/qemu-server/no-qmeventd"])
    world.server.expire("hyp-a")
    a.wait_event("119", "fence.done", 90)
    kept = [code for code in a.events("119") if code.startswith("fence.")]
    assert kept[-3:] == ["fence.clean-up", "fence.after", "fence.done"], kept
    assert a.pid("119") not in (0, first)
    a.wait_until("119", disk("119"))
    a.wait_beats("119")
    a.qm("stop", "119")
    world.assert_free("119")


def test_swtpm_is_pinned_frozen_killed_and_waited_for(world: World) -> None:
    a = world.a
    guest = PveGuest("120", "tpm", {"scsi0": "nas:120/vm-120-disk-0.raw", "tpmstate0": TPM_CONFIG})
    world.cluster.create(guest, a)
    a.qm("start", "120")
    a.wait_until("120", WITH_TPM)
    swtpm = a.host.run(["cat", "/run/qemu-server/120.swtpm.pid"]).stdout.strip()
    kinds = {process["kind"]: str(process["pid"]) for process in (a.guarded_vm("120") or {})["processes"]}
    assert kinds == {"qemu": str(a.pid("120")), "swtpm": swtpm}
    # frozen with its VM
    world.lab.partition(a.host)
    both = f"cat /proc/{swtpm}/stat /proc/{a.pid('120')}/stat | sed 's/.*) //' | cut -c1"
    deadline = time.monotonic() + 2 * LEASE
    while set(a.host.run(both).stdout.split()) != {"T"}:
        assert time.monotonic() < deadline, a.log()
        time.sleep(0.2)
    world.lab.heal(a.host)
    a.wait_beats("120", timeout=30)
    # waited for: QEMU is dead, swtpm still has the state open
    a.host.run(["kill", "-STOP", swtpm])
    a.kill_qemu("120")
    time.sleep(3)
    assert world.b.check("120")["summary"] == "held by hyp-a"
    a.host.run(["kill", "-9", swtpm])
    world.assert_free("120")
    # killed with it
    a.qm("start", "120")
    a.wait_until("120", WITH_TPM)
    swtpm = a.host.run(["cat", "/run/qemu-server/120.swtpm.pid"]).stdout.strip()
    a.host.run(["kill", "-STOP", swtpm])  # so that it cannot end by itself with QEMU's socket
    world.server.expire("hyp-a")
    a.wait_event("120", "fence.done")
    assert a.host.run(f"test -d /proc/{swtpm}", check=False).returncode == 1
    world.assert_free("120")


def test_a_storage_daemon_of_the_vm_is_pinned_and_killed_with_it(world: World) -> None:
    """As Proxmox starts one for a TPM state that is no raw file (QSD.pm), but for the FUSE mount in front of it."""
    a = world.a
    start(world, "123", "exported")
    state = f"{STORE}/images/123/vm-123-disk-1.qcow2"
    run = "/var/run/qemu-server/qsd-123"
    a.host.run(["qemu-img", "create", "-q", "-f", "qcow2", state, "4M"])
    file = f"driver=file,node-name=file,filename={state},locking=off,cache.direct=on"
    export = (
        f"qemu-storage-daemon --daemonize --blockdev {file} --blockdev driver=qcow2,node-name=tpm,file=file "
        f"--chardev socket,id=qmp,path={run}.qmp,server=on,wait=off --monitor chardev=qmp --pidfile {run}.pid"
    )
    a.host.run(export)
    qsd = a.host.run(["cat", f"{run}.pid"]).stdout.strip()
    a.wait_until("123", {**disk("123"), "vm-123-disk-1.qcow2": PINNED}, 15)
    kinds = {process["kind"]: str(process["pid"]) for process in (a.guarded_vm("123") or {})["processes"]}
    assert kinds["qemu-storage-daemon"] == qsd
    a.kill_qemu("123")
    time.sleep(3)
    assert world.b.check("123")["summary"] == "held by hyp-a"  # the VM is not dead while one of its writers lives
    a.host.run(["kill", "-9", qsd])
    world.assert_free("123")
    a.qm("start", "123")
    a.wait_until("123", disk("123"))
    a.host.run(export)
    a.wait_until("123", {**disk("123"), "vm-123-disk-1.qcow2": PINNED}, 15)
    qsd = a.host.run(["cat", f"{run}.pid"]).stdout.strip()
    world.server.expire("hyp-a")
    a.wait_event("123", "fence.done")
    assert a.host.run(f"test -d /proc/{qsd}", check=False).returncode == 1
    world.assert_free("123")


def test_a_vm_that_was_started_without_the_hook_is_known_by_its_vmid(world: World) -> None:
    a = world.a
    guest = PveGuest("121", "bare", more={"hookscript": ""})
    world.cluster.create(guest, a)
    a.qm("start", "121")
    a.wait_until("121", disk("121"), 15)
    assert (a.guarded_vm("121") or {})["hypervisor"] == "proxmox"
    assert world.b.check("121")["summary"] == "held by hyp-a"
    a.qm("stop", "121")
    world.assert_free("121")


def test_ha_retries_and_the_node_that_comes_back(world: World) -> None:
    """HA has two tries on a node, 20 s apart with a lease of 90 s: both would be gone long before the dead node's lock.
    The negative control is a hook that refuses at once."""
    a, b = world.a, world.b
    start(world, "122", "fails-over")
    world.cluster.move("122", a, b)
    b.reconfigure(CONFIG.replace("12s", "12s, lock_wait: 10ms"))
    began = time.monotonic()
    assert b.ha_start("122") == ("error", 2)
    assert time.monotonic() - began < LEASE, "all tries were burnt within one lease"
    b.reconfigure(CONFIG)
    job = b.qm_job("start", "122")  # the first try
    time.sleep(1)
    a.host.power_cut()
    died = time.monotonic()
    assert job.wait(60).returncode == 0, job.output()
    assert LEASE - 2 < time.monotonic() - died < LEASE + 8
    b.wait_until("122", disk("122"))
    b.wait_beats("122")
    # the node comes back: by the configuration's place the VM is not its own, and by the lock neither
    a.host.boot()
    a.host.wait()
    a.mount(world.server, STORE)
    a.start_daemon()
    assert "does not exist" in a.qm("start", "122", check=False).stderr
    guest = PveGuest("122", "fails-over")
    a.host.put("/etc/pve/nodes/hyp-a/qemu-server/122.conf", guest.config.encode())  # by hand, on a node without quorum
    a.reconfigure(CONFIG.replace("12s", "12s, lock_wait: 2s"))
    refused = a.qm("start", "122", check=False)
    assert "locked by host hyp-b" in refused.stderr
    b.wait_beats("122")
    b.qm("stop", "122")
    b.wait_until("122", {})
    a.qm("start", "122")
    a.wait_until("122", disk("122"))
    a.wait_beats("122")
    a.qm("stop", "122")
