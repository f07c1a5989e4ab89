"""Random faults over three hosts and one server, in simulated time: the promise at each step, and that both VMs run in
the end. tests/bench/campaign does the same on real kernels. ``VMGUARD_LONG=1`` plays twenty times as many.

Two faults make the server give out locks that were lost. One is a recovery database that goes back in time. The other
one befalls an honest server: a host that was cut off and comes back is its client again as soon as it has said
RECLAIM_COMPLETE, and the host's kernel finds out about its locks only then. When the server reboots in between, it lets
that host reclaim locks that it had lost. A campaign on real kernels met this; without owner records it breaks the
promise here, too.

Slow answers, of 3 s each, leave time for a reboot between a start's lock and its QEMU: a start that does not ask for
its lock again then runs beside another host.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.stories.machine import Vm
from tests.stories.play import Story
from vmguard.core.watchdog.policy import Policy

SEEDS = 400 if os.environ.get("VMGUARD_LONG") else 20
#: seeds in which the storage reboots between a slow start's lock and its QEMU, and gives the lock to another host
SLOW_STARTS = (77, 186, 195)
#: seconds of faults, and of peace after them
FAULTS, PEACE = 300.0, 90.0
DISKS = {"web": "nas:web", "db": "nas:db"}


class Campaign:
    """One seed's story."""

    def __init__(self, seed: int, records: bool = True, proves_starts: bool = True) -> None:
        self.random = random.Random(seed)
        vms = {name: {"host": "A", "disks": [path]} for name, path in DISKS.items()}
        plot = {"hosts": dict.fromkeys("ABC"), "vms": vms, "events": [], "until": FAULTS + PEACE}
        plot |= {"records": records, "proves-starts": proves_starts}
        self.story = Story(plot)
        self.sim, self.server = self.story.sim, self.story.servers["nas"]
        self.cut: set[str] = set()
        self.made: dict[tuple[str, str], Vm] = {}
        #: the newest claim of each disk by which a VM ran; a start that is refused late has left a record, too
        self.newest = dict.fromkeys(DISKS.values(), 0)
        #: what must never be
        self.wrong: set[str] = set()

    def play(self) -> str:
        """Return the timeline."""
        self.sim.after(5.0, self._next)
        self.sim.after(0.1, self._look)
        lines = self.story.play()
        # What was queued before a lock was given back may land first: a stated limit.
        self.wrong |= set(self.story.sim.violations) - {"stale"}
        for name in DISKS:
            running = [host.name for host in self.story.hosts.values() if name in host.vms and host.vms[name].executing]
            if len(running) != 1:
                self.wrong.add(f"in the end {name} runs on {running}")
        return "\n".join(lines)

    def _do(self, text: str) -> None:
        self.story._happen(text)

    def _next(self) -> None:
        if self.sim.now < FAULTS:
            host = self.random.choice("ABC")
            faults = [self._cut, self._cut, self._heal, self._reboot, self._half_back, self._kill_daemon]
            faults += [self._set_back, self._hide_records, self._slow]
            faults += [self._start] * 4
            self.random.choice(faults)(host)
            self.sim.after(self.random.uniform(0.3, 8.0), self._next)
            return
        for host in sorted(self.cut):
            self._heal(host)
        self.sim.after(PEACE / 2, self._start_what_was_lost)

    def _start_what_was_lost(self) -> None:
        for name in DISKS:
            if not any(name in host.vms for host in self.story.hosts.values()):
                self._start("B", name)

    def _cut(self, host: str) -> None:
        if len(self.cut) < 2 and host not in self.cut:
            self.cut.add(host)
            self._do(f"cut {host} nas")

    def _heal(self, host: str) -> None:
        if host in self.cut:
            self.cut.discard(host)
            self._do(f"heal {host} nas")

    def _reboot(self, _: str) -> None:
        if self.server.up:
            self._do("down nas")
            self.sim.after(self.random.choice([0.5, 2.0, 5.0, 12.0, 20.0]), lambda: self._do("up nas"))

    def _half_back(self, host: str) -> None:
        """The server goes down when a host is just back."""
        host = self.random.choice([*sorted(self.cut), host])
        if self.server.up and host in self.cut:
            self._do(f"note {host} is back, and has said RECLAIM_COMPLETE")
            self.server.recovery_db.add(self.story.hosts[host].kernel.identity)
            self._reboot(host)
            self._heal(host)

    def _set_back(self, host: str) -> None:
        """The server comes back with a database in which every host is."""
        if self.server.up:
            self._do("note the recovery database goes back in time")
            self.server.recovery_db |= {each.kernel.identity for each in self.story.hosts.values()}
            self._reboot(host)

    def _hide_records(self, _: str) -> None:
        self._do("unreadable-records EIO")
        self.sim.after(5.0, lambda: self._do("unreadable-records"))

    def _slow(self, _: str) -> None:
        """Each answer takes seconds, so that much may happen between a start's lock and its QEMU."""
        self._do("slow nas 3")
        self.sim.after(self.random.uniform(4.0, 20.0), lambda: self._do("slow nas 0.002"))

    def _kill_daemon(self, host: str) -> None:
        if self.story.hosts[host].watch is not None:
            self._do(f"kill-daemon {host}")
            self.sim.after(0.3, lambda: self._do(f"start-daemon {host}"))

    def _start(self, where: str, name: str = "") -> None:
        """Start a VM also there: its claim waits until the disk is free."""
        name = name or self.random.choice(sorted(DISKS))
        host, before = self.story.hosts[where], self.made.get((name, where))
        if name not in host.vms and (before is None or before.state == "gone"):
            self._do(f"note {name} is wanted on {where}")
            vm = self.made[name, where] = Vm(name, host, Policy())
            host.start(vm, [DISKS[name]])

    def _look(self) -> None:
        self.sim.after(0.1, self._look)
        executing = [vm for host in self.story.hosts.values() for vm in host.vms.values() if vm.executing]
        for vm in executing:
            path = DISKS[vm.name]
            self.newest[path] = max(self.newest[path], vm.epochs[path])
        for vm in executing:
            if vm.epochs[DISKS[vm.name]] < self.newest[DISKS[vm.name]]:
                self.wrong.add(f"{vm.name} runs on {vm.host.name} by claim {vm.epochs} after claim {self.newest}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_vm_runs_after_another_hosts_claim_and_all_run_in_the_end(seed: int) -> None:
    campaign = Campaign(seed)
    timeline = campaign.play()
    assert not campaign.wrong, f"{campaign.wrong}\n{timeline}"
    assert "identity-stolen" not in timeline, timeline


def test_negative_control_without_owner_records_a_stale_vm_goes_on() -> None:
    campaigns = [Campaign(seed, records=False) for seed in range(8)]
    for campaign in campaigns:
        campaign.play()
    assert any("after claim" in text for campaign in campaigns for text in campaign.wrong)


def test_negative_control_a_start_that_does_not_ask_for_its_lock_again_runs_beside_another_host() -> None:
    """Slow answers, and a reboot between the lock and QEMU: the lock is another host's by then."""
    for seed in SLOW_STARTS:
        campaign = Campaign(seed, proves_starts=False)
        campaign.play()
        assert "runs" in campaign.wrong, seed


@pytest.mark.parametrize("seed", SLOW_STARTS)
def test_such_a_start_is_refused(seed: int) -> None:
    campaign = Campaign(seed)
    timeline = campaign.play()
    assert "is refused: the lock on" in timeline, timeline
    assert not campaign.wrong, f"{campaign.wrong}\n{timeline}"
