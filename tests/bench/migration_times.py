"""The measuring of tests/bench/migration: two pairs of hosts side by side, one of them guarded, migrating in turns.

How long a VM stands still is told by its own heart: from its last beat on the source to its first on the target. Its
clock stands still with it, so that one tick of 55 ms is in there, on either pair.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from contextlib import ExitStack

from tests.lab import Job, Lab
from tests.lab.domain import SERIAL, domain_xml
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.real.guard import eventually
from tests.scenarios.guarded import SHARE, Guarded

DEFAULT_ROUNDS = 20
#: milliseconds by which the guard may lengthen the stand
BUDGET = 20.0
_WARM_UP = 1
_WATCHER = f"{REPOSITORY}/tests/bench/inside/beats.py"
STAND, DOWNTIME, WHOLE = "from beat to beat", "libvirt's downtime", "all of virsh migrate"


class Host:
    """One of a pair, and the moments at which the VM beat there."""

    def __init__(self, node: Guarded, name: str) -> None:
        self.node = node
        serial = SERIAL.format(name)
        node.host.run(["touch", serial])
        self._watcher: Job = node.host.spawn([PYTHON, _WATCHER, serial])

    def beats(self) -> list[float]:
        return [float(line) for line in self._watcher.output()[0].split("\n")[:-1]]


class Contestant:
    """A pair of hosts, the VM between them, and what its migrations took, in milliseconds."""

    def __init__(self, name: str, nodes: list[Guarded], guarded: bool) -> None:
        self.name = name
        self.guarded = guarded
        self.took: dict[str, list[float]] = {STAND: [], DOWNTIME: [], WHOLE: []}
        disk = f"{SHARE}/{name}.qcow2"
        nodes[0].host.put(disk, heartbeat_disk())
        self._hosts = [Host(node, name) for node in nodes]
        # Appended to: the same host may run it twice.
        xml = domain_xml(name, disk).replace("<serial type='file'><source ", "<serial type='file'><source append='on' ")
        nodes[0].host.libvirt.create(xml)
        self._settle(self._hosts[0])

    def _settle(self, host: Host) -> None:
        """Until it beats there, and is guarded if it is to be."""
        before = len(host.beats())
        assert eventually(lambda: len(host.beats()) > before + 5, 30), f"{self.name} does not beat"
        if self.guarded:
            assert eventually(
                lambda: [file["guard"] for vm in host.node.status() for file in vm["files"]] == ["pinned"], 30
            )

    def round(self) -> None:
        source, target = self._hosts
        known = len(target.beats())
        began = time.monotonic()
        source.node.host.libvirt.migrate(self.name, target.node.host)
        self.took[WHOLE].append(1000 * (time.monotonic() - began))
        self._settle(target)
        self.took[STAND].append(1000 * (target.beats()[known] - source.beats()[-1]))
        told = target.node.host.libvirt.virsh("domjobinfo", self.name, "--completed").stdout
        found = re.search(r"^Total downtime: +(\d+) ", told, re.MULTILINE)
        assert found is not None, told
        self.took[DOWNTIME].append(float(found[1]))
        self._hosts.reverse()

    def median(self, title: str) -> float:
        return statistics.median(self.took[title][_WARM_UP:])


def contestants(stack: ExitStack) -> list[Contestant]:
    lab = stack.enter_context(Lab())
    server = lab.nfs_server(lease=10, grace=10)
    found = []
    for name, guarded in (("plain", False), ("guarded", True)):
        nodes = [Guarded(lab.hypervisor(f"{name}-{letter}", libvirt=True)) for letter in "ab"]
        for node in nodes:
            node.mount(server)
            if guarded:
                node.start_daemon()
                node.host.libvirt.restart()  # it looks for hooks only when it starts
        found.append(Contestant(name, nodes, guarded))
    return found


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    with ExitStack() as stack:
        pairs = contestants(stack)
        done = 0
        try:
            for number in range(_WARM_UP + rounds):
                for one in pairs if number % 2 else pairs[::-1]:  # nobody is always the first
                    one.round()
                done = number + 1 - _WARM_UP
                print(f"\rround {done} of {rounds} ", end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(" broken off", end="", file=sys.stderr)
        print(file=sys.stderr)
        if done > 0:
            show(pairs, done)
    return 0


def show(pairs: list[Contestant], rounds: int) -> None:
    plain, guarded = pairs
    print(f"{'milliseconds':<22}{'without':>9}{'guarded':>9}{'more':>9}{'ratio':>9}")
    for title in plain.took:
        without, ours = plain.median(title), guarded.median(title)
        print(f"{title:<22}{without:>9.0f}{ours:>9.0f}{ours - without:>+9.0f}{ours / without:>9.2f}")
    for one in (plain, guarded):
        values = sorted(one.took[STAND][_WARM_UP:])
        print(f"{one.name}, {STAND}: from {values[0]:.0f} to {values[-1]:.0f}")
    print(f"allowed: {BUDGET:+.0f} ms {STAND}; medians of {rounds} migrations of each")


if __name__ == "__main__":
    sys.exit(main())
