"""The measuring of tests/bench/migration: two pairs of hosts side by side, one of them guarded, migrating in turns.

How long a VM stands still is told by its own heart: from its last beat on the source to its first on the target. Its
clock stands still with it, so that one tick of 55 ms is in there, on either pair. The clocks of lab guests differ by up
to a second; that is measured at each trip, to a few milliseconds, and taken off. libvirt's own measure of the downtime
goes wrong by it: a round is there and back, and the mean of the two counts.
"""

from __future__ import annotations

import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from tests.bench.turns import take_turns
from tests.lab import Job, Lab
from tests.lab.domain import SERIAL, domain_xml
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.support.guard import eventually
from tests.support.guarded_guests import SHARE, Guarded
from tests.support.migration_peer import MigrationPeer

DEFAULT_ROUNDS = 10
#: milliseconds by which the guard may lengthen the stand
BUDGET = 20.0
_WARM_UP = 1
_WATCHER = f"{REPOSITORY}/tests/bench/inside/beats.py"
STAND, DOWNTIME, WHOLE = "from beat to beat", "libvirt's downtime", "all of virsh migrate"


class Host(Protocol):
    """A host with libvirt, and the moments at which the VM beat there."""

    def create(self, disk: str, xml: str) -> None: ...
    def migrate(self, name: str, target: Host) -> None: ...
    def virsh(self, *words: str) -> str: ...
    def guards(self) -> list[str]: ...
    def beats(self) -> list[float]: ...
    def ahead(self) -> float:
        """Seconds by which its clock is ahead of this machine's."""


def _moments(text: str) -> list[float]:
    return [float(line) for line in text.split("\n")[:-1]]


class Corner:
    """A corner of this machine; the VM's disk lies on this machine's own file system."""

    def __init__(self, name: str, letter: str, guarded: bool, stack: ExitStack) -> None:
        self._host = stack.enter_context(MigrationPeer(f"{name}-{letter}", guarded))
        serial = Path(f"{self._host.root}{SERIAL.format(name)}")
        serial.parent.mkdir(parents=True, exist_ok=True)
        serial.touch()
        self._told = self._host.folder / "beats"
        with self._told.open("w") as output:
            watcher = subprocess.Popen([PYTHON, _WATCHER, str(serial)], stdout=output)
        stack.callback(watcher.wait)
        stack.callback(watcher.kill)

    def create(self, disk: str, xml: str) -> None:
        Path(disk).write_bytes(heartbeat_disk())
        path = self._host.folder / "domain.xml"
        path.write_text(xml)
        self._host.virsh("create", str(path))

    def migrate(self, name: str, target: Host) -> None:
        assert isinstance(target, Corner)
        self._host.migrate(name, target._host)

    def virsh(self, *words: str) -> str:
        return self._host.virsh(*words).out

    def guards(self) -> list[str]:
        return [file["guard"] for vm in self._host.status() for file in vm["files"]]

    def beats(self) -> list[float]:
        return _moments(self._told.read_text())

    def ahead(self) -> float:
        return 0.0


class Node:
    """A lab guest; the VM's disk lies on the lab's NFS server."""

    def __init__(self, node: Guarded, name: str) -> None:
        self._node = node
        serial = SERIAL.format(name)
        node.host.run(["touch", serial])
        self._watcher: Job = node.host.spawn([PYTHON, _WATCHER, serial])

    def create(self, disk: str, xml: str) -> None:
        self._node.host.put(disk, heartbeat_disk())
        self._node.host.libvirt.create(xml)

    def migrate(self, name: str, target: Host) -> None:
        assert isinstance(target, Node)
        self._node.host.libvirt.migrate(name, target._node.host)

    def virsh(self, *words: str) -> str:
        return self._node.host.libvirt.virsh(*words).stdout

    def guards(self) -> list[str]:
        return [file["guard"] for vm in self._node.status() for file in vm["files"]]

    def beats(self) -> list[float]:
        return _moments(self._watcher.output()[0])

    def ahead(self) -> float:
        return self._node.host.clock_offset()


class Contestant:
    """A pair of hosts, the VM between them, and what a migration took, in milliseconds: how long the VM stood for each
    trip, the rest for each round."""

    def __init__(self, name: str, disk: str, hosts: list[Host], guarded: bool) -> None:
        self.name = name
        self.guarded = guarded
        self.took: dict[str, list[float]] = {STAND: [], DOWNTIME: [], WHOLE: []}
        self._hosts = hosts
        # Appended to: the same host may run it twice.
        xml = domain_xml(name, disk).replace("<serial type='file'><source ", "<serial type='file'><source append='on' ")
        hosts[0].create(disk, xml)
        self._settle(hosts[0])

    def _settle(self, host: Host) -> None:
        """Until it beats there, and is guarded if it is to be."""
        before = len(host.beats())
        assert eventually(lambda: len(host.beats()) > before + 5, 30), f"{self.name} does not beat"
        if self.guarded:
            assert eventually(lambda: host.guards() == ["pinned"], 30), host.guards()

    def round(self) -> None:
        there, back = self._trip(), self._trip()
        self.took[STAND] += [there[STAND], back[STAND]]
        for title in (DOWNTIME, WHOLE):
            self.took[title].append((there[title] + back[title]) / 2)

    def _trip(self) -> dict[str, float]:
        source, target = self._hosts
        known = len(target.beats())
        began = time.monotonic()
        source.migrate(self.name, target)
        whole = 1000 * (time.monotonic() - began)
        self._settle(target)
        stand = 1000 * (target.beats()[known] - target.ahead() - (source.beats()[-1] - source.ahead()))
        told = target.virsh("domjobinfo", self.name, "--completed")
        found = re.search(r"^Total downtime: +(\d+) ", told, re.MULTILINE)
        assert found is not None, told
        self._hosts.reverse()
        if self.guarded:
            assert eventually(lambda: source.guards() == [], 30), source.guards()
        return {STAND: stand, DOWNTIME: float(found[1]), WHOLE: whole}

    def counted(self, title: str) -> list[float]:
        """Without the warm-up."""
        return self.took[title][_WARM_UP * (2 if title == STAND else 1) :]

    def median(self, title: str) -> float:
        return statistics.median(self.counted(title))


def corners(stack: ExitStack) -> list[Contestant]:
    found = []
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
    folder.chmod(0o755)  # QEMU runs as libvirt-qemu
    for name, guarded in (("plain", False), ("guarded", True)):
        hosts: list[Host] = [Corner(name, letter, guarded, stack) for letter in "ab"]
        found.append(Contestant(name, str(folder / f"{name}.qcow2"), hosts, guarded))
    return found


def guests(stack: ExitStack) -> list[Contestant]:
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
        found.append(Contestant(name, f"{SHARE}/{name}.qcow2", [Node(node, name) for node in nodes], guarded))
    return found


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--lab"]
    rounds = int(words[0]) if words else DEFAULT_ROUNDS
    with ExitStack() as stack:
        pairs = guests(stack) if "--lab" in sys.argv else corners(stack)
        done = take_turns(pairs, rounds, _WARM_UP)
        if done > 0:
            show(pairs, done)
    return 0


def interval(count: int) -> tuple[int, int]:
    """Between which of so many sorted values the true median lies with 95 %: of the binomial distribution of how many
    of them fall below it."""
    below, low = 0.0, 0
    for number in range(count // 2):
        below += math.comb(count, number) / 2**count
        if below > 0.025:
            break
        low = number + 1
    return max(0, low - 1), min(count - 1, count - low)


def show(pairs: list[Contestant], rounds: int) -> None:
    plain, guarded = pairs
    print(f"{'milliseconds':<22}{'without':>9}{'guarded':>9}{'more':>9}{'ratio':>9}")
    for title in plain.took:
        without, ours = plain.median(title), guarded.median(title)
        print(f"{title:<22}{without:>9.0f}{ours:>9.0f}{ours - without:>+9.0f}{ours / without:>9.2f}")
    more = sorted(after - before for before, after in zip(plain.counted(STAND), guarded.counted(STAND), strict=False))
    low, high = interval(len(more))
    print(
        f"more, trip by trip: median {statistics.median(more):+.0f}, true in 95 of 100 runs: "
        f"{more[low]:+.0f} to {more[high]:+.0f}"
    )
    for one in pairs:
        values = sorted(one.counted(STAND))
        quarter, three = values[len(values) // 4], values[3 * len(values) // 4]
        print(f"{one.name}, {STAND}: {values[0]:.0f} to {values[-1]:.0f}, half of them {quarter:.0f} to {three:.0f}")
    print(f"allowed: {BUDGET:+.0f} ms {STAND}; medians of {rounds} times there and back")


if __name__ == "__main__":
    sys.exit(main())
