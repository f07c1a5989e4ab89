"""The watchdog on real kernels: what becomes of a VM when the storage is away, comes back, or gave its lock away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.qemu import Vm
from tests.support.guarded_guests import VMGUARD, Guarded, Guest, two_nodes
from tests.support.watched_guests import (
    LEASE,
    LONG,
    SEEN,
    Beats,
    Measured,
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


@pytest.mark.parametrize("down", [5, 30, *([120] if LONG else [])])
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
    assert shown.startswith("CRITICAL"), shown
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
def test_a_partition_beyond_the_lease(cluster: Cluster, run: int, record_property: Measured) -> None:
    """A's VMs stood still before B's ran, and are fenced when A is back; B is undisturbed. The next storage reboot does
    not give the locks back to A. The negative control is in the same partition: with on_at_risk: ignore both run."""
    lab, server, a, b = cluster
    names = [f"cut-{run}-{number}" for number in range(2)] + ["ignored"] * (run == 0)
    on_a = {name: started(a, name) for name in names}
    guests = {name: guest for name, (guest, _) in on_a.items()}
    still = Stillness(a, {name: vm for name, (_, vm) in on_a.items()})
    with Beats(**{name: vm for name, (_, vm) in on_a.items()}) as beats:
        lab.partition(a.host)
        on_b = take_over(b, list(guests.values()), beats)
        since = still.since()
        assert len(since) == 2
        if "ignored" in on_a:  # the negative control: it runs on both hosts, and neither of them is stopped or dead
            assert "ignored" not in since
            assert not dead(on_a["ignored"][1])
            assert not dead(on_b["ignored"])
        still.end()
        lab.heal(a.host)
        for name, (_, vm) in on_a.items():
            wait_until(f"A's {name} is dead", lambda vm=vm: dead(vm), 60, a.log)  # type: ignore[misc]
    for name in since:
        check_never_both(beats, name, since[name], record_property)
    for name, (guest, vm) in on_a.items():
        a.wait_released(guest, 60)
        assert "lock.lost" in codes(a, guest)
        assert "E" not in vm.beats() or name == "ignored", "the guest saw an error: it was not frozen"
        on_b[name].wait_beats(3)
        assert "E" not in on_b[name].beats()
    wait_until("the fences are complete", lambda: codes(a).count("fence.done") >= len(names), 20, a.log)
    if run == 0:
        check_two_losses_in_a_row(server, b, on_b)
    clean_up(b, *((guests[name], vm) for name, vm in on_b.items()))


def check_never_both(beats: Beats, name: str, still: float, record_property: Measured) -> None:
    """A's last beat of all came before B's first; and it stood still before, not only unable to write."""
    first_on_b = beats.first[f"b-{name}"]
    record_property("partition: last beat on A to first on B, s", first_on_b - beats.last[name])
    record_property("partition: stood still on A to first beat on B, s", first_on_b - still)
    assert first_on_b - beats.last[name] > SEEN
    assert first_on_b - still > SEEN


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


@pytest.mark.parametrize("healed", [True, False])
def test_a_daemon_that_stood_still_through_a_takeover_acts_on_what_is_true(cluster: Cluster, healed: bool) -> None:
    """The worst case: cut off while nobody is there to freeze. The pin keeps its writes back; then it is found out."""
    lab, _, a, b = cluster
    guest, vm = started(a, f"slept-{'healed' if healed else 'cut'}")
    assert a.daemon is not None
    a.daemon.kill(19)
    before = len(codes(a))
    lab.partition(a.host)
    with Beats() as beats:
        on_b = take_over(b, [guest], beats)
        if healed:
            lab.heal(a.host)
            vm.wait_beats(1, timeout=60, mark="E")  # not one write of it lands
        a.daemon.kill(18)
        if not healed:
            wait_until("it is frozen at once", lambda: "vm.freeze" in codes(a, guest), 5, a.log)
            assert not dead(vm), "nobody knew anything yet"
            assert "lock.lost" not in codes(a, guest)
            lab.heal(a.host)
        wait_until("dead", lambda: dead(vm), 60, a.log)
    a.wait_released(guest, 60)
    wait_until("the fence is complete", lambda: "fence.done" in codes(a, guest), 20, a.log)
    steps = ("watch.woke-up", "vm.freeze", "lock.lost", "vm.fence", "fence.kill", "fence.done")
    assert tuple(code for code in codes(a)[before:] if code in steps) == steps
    on_b[guest.name].wait_beats(3)
    assert "E" not in on_b[guest.name].beats()
    clean_up(b, (guest, on_b[guest.name]))


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


def test_a_lock_lost_while_disarmed_kills_nobody_until_it_is_armed_again(cluster: Cluster) -> None:
    """The pin keeps the stale VM's writes back meanwhile: it runs into I/O errors, and B's data stay whole."""
    lab, _, a, b = cluster
    guest, vm = started(a, "disarmed-lost")
    vmguard(a, "disarm", "--for", "10m", "--reason", "switch is replaced")
    lab.partition(a.host)
    with Beats() as beats:
        on_b = take_over(b, [guest], beats)
        lab.heal(a.host)
        wait_until("it would be fenced", lambda: "vm.fence" in codes(a, guest), 60, a.log)
    assert {"lock.lost", "vm.freeze"} <= set(codes(a, guest))
    time.sleep(2)
    assert not dead(vm), "no signal was sent"
    assert "fence.kill" not in codes(a, guest)
    assert f"vm.fence {guest.name}" in a.host.run(["cat", "/run/told"]).stdout
    vm.wait_beats(1, timeout=60, mark="E")
    vmguard(a, "arm")
    wait_until("dead", lambda: dead(vm), 30, a.log)  # the control: armed, the same verdict kills it
    a.wait_released(guest, 60)
    on_b[guest.name].wait_beats(3)
    assert "E" not in on_b[guest.name].beats()
    clean_up(b, (guest, on_b[guest.name]))


def test_the_command_line_shows_the_lease(cluster: Cluster) -> None:
    _, _, a, _ = cluster
    guest = Guest("shown")
    a.make_disks(guest)
    vm = start(a, guest)
    shown = vmguard(a, "check", guest.name)
    assert "confirmed by the server" in shown
    assert "s until the VM is frozen" in shown
    drawn = vmguard(a, "timing")
    assert "FREEZE 8" in drawn
    assert "/srv/vm  " in vmguard(a, "status")
    clean_up(a, (guest, vm))
