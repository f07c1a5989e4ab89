"""The watchdog on real kernels: what becomes of a VM when the storage is away, comes back, or gave its lock away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.qemu import Vm
from tests.scenarios.guarded import VMGUARD, Guarded, Guest, two_nodes
from tests.scenarios.watching import (
    LEASE,
    LONG,
    SEEN,
    Beats,
    Stillness,
    clean_up,
    codes,
    dead,
    history,
    start,
    started,
    vmguard,
    wait_until,
)

pytestmark = pytest.mark.lab

Cluster = tuple[Lab, NfsServer, Guarded, Guarded]
CONFIG = """
hook: {wait: 0s}
watch: {slow_round: 10s}
vms:
  ignored: {on_at_risk: ignore}
notify: {command: 'echo "$VMGUARD_EVENT $VMGUARD_VM" >> /run/told'}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        yield lab, *two_nodes(lab, CONFIG)


@pytest.mark.parametrize("down", [30, *([5, 120] if LONG else [])])
def test_a_storage_reboot_kills_no_vm_whose_lock_is_reclaimed(cluster: Cluster, down: int) -> None:
    _, server, a, _ = cluster
    guest, vm = started(a, f"reboot-{down}")
    still = Stillness(a, {"vm": vm})
    server.power_cut()
    cut = time.time()
    try:
        if down > LEASE:
            check_frozen(a, guest, still, cut)
        time.sleep(max(0.0, cut + down - time.time()))
        beats = vm.beats()
    finally:
        server.boot()
        still.end()
    server.wait()
    vm.wait_beats(10, timeout=60)
    assert "E" not in vm.beats()
    assert len(beats) < len(vm.beats())
    if down > LEASE:
        assert [code for code in codes(a, guest) if code.startswith("vm.")] == ["vm.freeze", "vm.thaw"]
    wait_until("in order", lambda: a.check(guest.name)["summary"] == "guarded here, running", 10, a.log)
    clean_up(a, (guest, vm))


def check_frozen(a: Guarded, guest: Guest, still: Stillness, cut: float) -> None:
    wait_until("it stands still", lambda: still.since(), 20, a.log)
    assert still.since()["vm"] - cut < LEASE, "it ran on when another host could have had its lock"
    shown = vmguard(a, "check", guest.name)
    assert shown.startswith("WARNING"), shown
    assert "too long for the VM to run" in shown
    assert "FROZEN" in vmguard(a, "status")
    assert f"vm.freeze {guest.name}\n" in a.host.get("/run/told").decode()


def test_an_outage_shorter_than_the_lease_is_a_late_line_and_nothing_else(cluster: Cluster) -> None:
    lab, _, a, _ = cluster
    guest, vm = started(a, "short")
    before = len(history(a))
    lab.partition(a.host)
    time.sleep(3.5)  # TCP tries again after 6.2 s
    lab.heal(a.host)
    vm.wait_beats(5, timeout=20)
    wait_until("healthy", lambda: codes(a)[-1] == "mount.healthy", 20, a.log)
    assert [code for code in codes(a)[before:] if code != "mount.kernel-log"] == ["mount.late", "mount.healthy"]
    assert "E" not in vm.beats()
    clean_up(a, (guest, vm))


def take_over(b: Guarded, guests: list[Guest], beats: Beats) -> dict[str, Vm]:
    """Start them on B as soon as the server lets it."""
    vms: dict[str, Vm] = {}
    deadline = time.monotonic() + 4 * LEASE
    while len(vms) < len(guests):
        for guest in guests:
            if guest.name not in vms and b.claim(guest).returncode == 0:
                vms[guest.name] = b.run_vm(guest, "off")
                beats.vms[f"b-{guest.name}"] = vms[guest.name]
            assert time.monotonic() < deadline, "B never got the disks"
    for vm in vms.values():
        vm.wait_beats(2, timeout=30)
    return vms


@pytest.mark.parametrize("run", range(20 if LONG else 1))
def test_a_partition_beyond_the_lease(cluster: Cluster, run: int) -> None:
    """A's VMs stood still before B's ran, and are fenced when A is back; B is undisturbed. The next storage reboot does
    not give the locks back to A. The negative control is in the same partition: with on_at_risk: ignore both run."""
    lab, server, a, b = cluster
    names = [f"cut-{run}-{number}" for number in range(2)] + ["ignored"] * (run == 0)
    on_a = {name: started(a, name) for name in names}
    guests = {name: guest for name, (guest, _) in on_a.items()}
    still = Stillness(a, {name: vm for name, (_, vm) in on_a.items()})
    with Beats() as beats:
        lab.partition(a.host)
        on_b = take_over(b, list(guests.values()), beats)
        since = still.since()
        assert "ignored" not in since, "the negative control: it runs on both hosts"
        for name in since.keys() & on_b.keys():
            gap = beats.first[f"b-{name}"] - since[name]
            print(f"{name}: stood still on A {gap:.2f} s before its first beat on B")
            assert gap > SEEN
        assert len(since) == 2
        still.end()
        lab.heal(a.host)
        for name, (_, vm) in on_a.items():
            wait_until(f"A's {name} is dead", lambda vm=vm: dead(vm), 60, a.log)  # type: ignore[misc]
    for name, (guest, vm) in on_a.items():
        a.wait_released(guest, 60)
        assert "lock.lost" in codes(a, guest)
        assert "E" not in vm.beats() or name == "ignored", "the guest saw an error: it was not frozen"
        on_b[name].wait_beats(3)
    wait_until("the fences are complete", lambda: codes(a).count("fence.done") >= len(names), 20, a.log)
    if run == 0:
        check_two_losses_in_a_row(server, b, on_b)
    clean_up(b, *((guests[name], vm) for name, vm in on_b.items()))


def check_two_losses_in_a_row(server: NfsServer, b: Guarded, on_b: dict[str, Vm]) -> None:
    """Had A left its lost locks open, it would reclaim them now, before B does (facts of the Linux client)."""
    server.reboot(down=5)
    for vm in on_b.values():
        vm.wait_beats(10, timeout=90)
        assert "E" not in vm.beats()
    assert "lock.lost" not in codes(b)
    for name in on_b:
        wait_until(f"{name} in order", lambda name=name: b.check(name)["status"] == "OK", 20, b.log)  # type: ignore[misc]


def test_a_daemon_that_stood_still_asks_before_it_acts(cluster: Cluster) -> None:
    _, _, a, _ = cluster
    guest, vm = started(a, "asleep")
    assert a.daemon is not None
    a.daemon.kill(19)
    time.sleep(LEASE + 2)
    a.daemon.kill(18)
    before = vm.beats()
    wait_until("it has woken up", lambda: "watch.woke-up" in codes(a), 10, a.log)
    wait_until("in order", lambda: a.check(guest.name)["summary"] == "guarded here, running", 10, a.log)
    vm.wait_beats(5)
    assert "E" not in vm.beats()
    assert len(before) < len(vm.beats())
    assert not {"lock.lost", "vm.fence"} & set(codes(a, guest))
    clean_up(a, (guest, vm))


def test_a_disarmed_watchdog_reports_and_does_nothing(cluster: Cluster) -> None:
    lab, _, a, _ = cluster
    guest, vm = started(a, "disarmed")
    vmguard(a, "disarm", "--for", "2m", "--reason", "switch is replaced")
    lab.partition(a.host)
    wait_until("it would be frozen", lambda: "vm.freeze" in codes(a, guest), 20, a.log)
    status = json.loads(a.host.run([VMGUARD, "status", "--json"], check=False).stdout)
    assert status["disarmed"]["reason"] == "switch is replaced"
    [shown] = [found for found in status["vms"] if found["uuid"] == guest.uuid]
    assert (shown["frozen"], shown["watch"]["stance"], shown["watch"]["done"]) == (False, "frozen", False)
    lab.heal(a.host)
    vm.wait_beats(5, timeout=30)
    vmguard(a, "arm")
    text = vmguard(a, "history", guest.name)
    assert "switch is replaced (by root)" in text
    assert "WOULD be frozen" in text
    wait_until("in order", lambda: a.check(guest.name)["status"] == "OK", 10, a.log)
    clean_up(a, (guest, vm))


def test_the_command_line_shows_the_lease(cluster: Cluster) -> None:
    _, _, a, _ = cluster
    guest = Guest("shown")
    a.make_disks(guest)
    vm = start(a, guest)
    shown = vmguard(a, "check", guest.name)
    assert "verdict KEPT" in shown
    assert "s until the VM is frozen" in shown
    drawn = vmguard(a, "timing")
    assert "FREEZE 8" in drawn
    assert "/srv/vm  " in vmguard(a, "status")
    clean_up(a, (guest, vm))
