"""The measuring of tests/bench/operations: two libvirts side by side, one of them guarded, asked in turns."""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from tests.bench.turns import take_turns
from tests.lab import Lab
from tests.support.guard import eventually
from tests.support.guarded_guests import SHARE, Guarded
from tests.support.libvirt_host import LibvirtHost
from tests.support.libvirt_operations import NAME, domain, files, made, steps

DEFAULT_ROUNDS = 15
#: milliseconds by which the guard may slow an operation
BUDGET = 50.0
_WARM_UP = 1
#: seconds between two operations: what was opened is pinned by then
_PAUSE = 1.0


class Host(Protocol):
    """A host with libvirt, and the folder for the VM's disks."""

    folder: str

    def put(self, path: str, data: bytes) -> None: ...
    def remove(self, paths: list[str]) -> None: ...
    def virsh(self, *words: str) -> float:
        """The seconds that it took."""
        ...

    def pinned(self) -> set[str]: ...


class Corner:
    """A corner of this machine; its disks lie on this machine's own file system."""

    def __init__(self, guarded: bool, stack: ExitStack) -> None:
        self._host = stack.enter_context(LibvirtHost(guarded=guarded))
        (self._host.root / "var/log/libvirt/qemu").mkdir(parents=True, exist_ok=True)  # for the VM's serial line
        disks = self._host.folder / "disks"
        disks.mkdir()
        self.folder = str(disks)

    def put(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def remove(self, paths: list[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)

    def virsh(self, *words: str) -> float:
        return self._host.virsh(*words).seconds

    def pinned(self) -> set[str]:
        return {file["path"] for vm in self._host.status() for file in vm["files"] if file["guard"] == "pinned"}


class Node:
    """A lab guest; its disks lie on the lab's NFS server."""

    def __init__(self, node: Guarded) -> None:
        self._node = node
        self.folder = f"{SHARE}/{node.name}"
        node.host.run(["mkdir", "-p", self.folder])

    def put(self, path: str, data: bytes) -> None:
        self._node.host.put(path, data)

    def remove(self, paths: list[str]) -> None:
        self._node.host.run(["rm", "-f", *paths])

    def virsh(self, *words: str) -> float:
        began = time.monotonic()
        self._node.host.libvirt.virsh(*words, timeout=120)
        return time.monotonic() - began

    def pinned(self) -> set[str]:
        return {file["path"] for vm in self._node.status() for file in vm["files"] if file["guard"] == "pinned"}


class Contestant:
    """One host and what its operations took, in milliseconds."""

    def __init__(self, host: Host, guarded: bool) -> None:
        self.host = host
        self.guarded = guarded
        self.took: dict[str, list[float]] = {}

    def path(self, name: str) -> str:
        return f"{self.host.folder}/{name}"

    def round(self) -> None:
        self.host.remove(made(self.path))
        for path, data in files(self.path).items():
            self.host.put(path, data)
        self.host.put(self.path("domain.xml"), domain(self.path).encode())
        self.host.virsh("define", self.path("domain.xml"))
        for step in steps(self.path):
            self.took.setdefault(step.title, []).append(1000 * self.host.virsh(*step.words))
            time.sleep(_PAUSE)
            if self.guarded:
                assert eventually(lambda step=step: self.host.pinned() == set(step.open), 20), step.title  # type: ignore[misc]
        self.host.virsh("undefine", NAME)

    def median(self, title: str) -> float:
        return statistics.median(self.took[title][_WARM_UP:])


def corners(stack: ExitStack) -> list[Contestant]:
    return [Contestant(Corner(guarded, stack), guarded) for guarded in (False, True)]


def guests(stack: ExitStack) -> list[Contestant]:
    lab = stack.enter_context(Lab())
    server = lab.nfs_server(lease=10, grace=10)
    nodes = [Guarded(lab.hypervisor(name, libvirt=True)) for name in ("plain", "guarded")]
    for node in nodes:
        node.mount(server)
    nodes[1].start_daemon()
    nodes[1].host.libvirt.restart()  # it looks for hooks only when it starts
    return [Contestant(Node(node), node is nodes[1]) for node in nodes]


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--lab"]
    rounds = int(words[0]) if words else DEFAULT_ROUNDS
    with ExitStack() as stack:
        contestants = guests(stack) if "--lab" in sys.argv else corners(stack)
        done = take_turns(contestants, rounds, _WARM_UP)
        plain, guarded = contestants
        if done > 0:
            show(plain, guarded, done)
    return 0


def show(plain: Contestant, guarded: Contestant, rounds: int) -> None:
    print(f"{'milliseconds':<14}{'without':>9}{'guarded':>9}{'more':>9}")
    for title in plain.took:
        more = guarded.median(title) - plain.median(title)
        verdict = "" if more <= BUDGET else f"   more than {BUDGET:.0f}"
        print(f"{title:<14}{plain.median(title):>9.0f}{guarded.median(title):>9.0f}{more:>+9.0f}{verdict}")
    print(f"allowed: {BUDGET:+.0f} ms for each operation; medians of {rounds} rounds")


if __name__ == "__main__":
    sys.exit(main())
