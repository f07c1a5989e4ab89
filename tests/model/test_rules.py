"""Hosts, servers and faults at random, longer than a search can look: the real machine in the world of the stories.

Three hosts, two servers, two VMs of two disks each. A rule is a fault, its end, or time that passes. The world checks
the promise at each accepted write and at each change of a VM, the machine its own sentences at each step; and what each
host has reported must be a history that can be.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.stories.host import Host
from tests.stories.play import Story
from tests.stories.world import Server
from tests.support.histories import entry
from vmguard.core.watchdog import trace

HOSTS, SERVERS, VMS = ("A", "B", "C"), ("nas", "san"), ("web", "db")
DISKS = {"web": ["nas:web", "san:web"], "db": ["nas:db", "nas:log"]}
LONG = bool(os.environ.get("VMGUARD_LONG"))
hosts, servers, vms = st.sampled_from(HOSTS), st.sampled_from(SERVERS), st.sampled_from(VMS)


class Faults(RuleBasedStateMachine):
    """A story that nobody has written."""

    #: whether the watchdog reads the owner records, and what a server may forget
    records, forgets = True, False

    def __init__(self) -> None:
        super().__init__()
        plot = {"hosts": dict.fromkeys(HOSTS), "servers": dict.fromkeys(SERVERS), "events": [], "until": 0}
        plot["vms"] = {name: {"host": "A", "disks": DISKS[name]} for name in VMS}
        self.story = Story({**plot, "records": self.records})
        self.starts: set[tuple[str, str]] = set()
        self.pass_time(3)

    def happen(self, text: str) -> None:
        self.story._happen(text)

    def pass_time(self, seconds: float) -> None:
        self.story.sim.run(self.story.sim.now + seconds)

    def host(self, name: str) -> Host:
        return self.story.hosts[name]

    def server(self, name: str) -> Server:
        return self.story.servers[name]

    def up(self, server: str, how: str = "") -> None:
        self.happen(f"up {server} {how}")

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 2, 3.4, 5, 8.1, 11, 25]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(host=hosts, server=servers)
    def cut(self, host: str, server: str) -> None:
        self.happen(f"cut {host} {server}")

    @rule(host=hosts, server=servers)
    def heal(self, host: str, server: str) -> None:
        self.happen(f"heal {host} {server}")

    @rule(server=servers, off=st.sampled_from([0.2, 2, 9, 15]))
    def reboot(self, server: str, off: float) -> None:
        if self.server(server).up:
            self.server(server).down()
            self.pass_time(off)
            self.up(server, "forgets grace=0" if self.forgets else "")

    @rule(server=servers)
    def reboot_with_an_older_database(self, server: str) -> None:
        if self.server(server).up and not self.forgets:
            self.server(server).down()
            self.pass_time(0.5)
            self.server(server).recovery_db |= set(HOSTS)
            self.up(server)

    @precondition(lambda self: not any(host.watch is None for host in self.story.hosts.values()))
    @rule(host=hosts)
    def daemon_dies(self, host: str) -> None:
        self.host(host).kill_daemon()
        self.pass_time(0.1)
        self.host(host).start_daemon()

    @rule(vm=vms, host=st.sampled_from(("B", "C")))
    def start_elsewhere(self, vm: str, host: str) -> None:
        if (vm, host) not in self.starts and vm not in self.host(host).vms:
            self.starts.add((vm, host))  # it is tried again each second, until its disks are free
            self.happen(f"start {vm} on {host}")

    @invariant()
    def nothing_was_violated(self) -> None:
        # An older database may let one queued write land: a limit that README.md states.
        assert [what for what in self.story.sim.violations if what not in ("stale", "write")] == []

    def teardown(self) -> None:
        for host in self.story.hosts.values():
            assert trace.faults([entry(*line) for line in host.reports], whole=True) == [], host.name


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=600 if LONG else 12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Forgetting(Faults):
    """The control: servers that forget, and hosts that do not read the records."""

    records, forgets = False, True


def test_negative_control_a_server_that_forgets_is_found() -> None:
    case = Forgetting.TestCase
    case.settings = settings(
        max_examples=300, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    with pytest.raises(AssertionError):
        case("runTest").runTest()
