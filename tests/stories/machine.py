"""A VM of the simulated world and its start. It writes to each of its disks each second while it executes.

A start does as the hook: it locks all disks, writes their records, and then runs the VM. What the server answers at its
usual speed comes with the lock; a slow one gives the world time to change in between.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tests.stories.world import ROUND_TRIP, Description, Request
from vmguard.core.watchdog.events import LockId, LockInfo, Relock, Rival, VmInfo
from vmguard.core.watchdog.fence_ladder import Rung
from vmguard.core.watchdog.policy import Policy, Stake

if TYPE_CHECKING:
    from tests.stories.host import Host

#: requests of a start behind a lock: the list of the VM's disks, the records' folder, the record, its new slot
RECORD_REQUESTS = 4


@dataclass(eq=False)
class Vm:
    """A VM on one host: its QEMU's state is what really is, whatever the watchdog believes."""

    name: str
    host: Host
    policy: Policy
    pinned: bool = True
    locks: dict[str, Description] = field(default_factory=dict)
    granted: dict[str, float] = field(default_factory=dict)
    #: for each server, what its client had counted before the first lock was asked for
    sessions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: running, frozen, blocked (killed, in state D), dead
    state: str = "claimed"
    writing: set[str] = field(default_factory=set)
    #: what it does not let be done to it
    stubborn: str = ""
    #: what the state file says
    was_frozen: bool = False
    fencing: str = ""
    #: files that it writes to although somebody else has their lock
    rivals: dict[str, Rival] = field(default_factory=dict)
    held: bool = False
    rungs: dict[Rung, float] = field(default_factory=dict)
    said: str = ""
    cleaned: bool = False
    followed: bool = False
    #: of those of its files that it could live without, or only reads
    stakes: dict[str, Stake] = field(default_factory=dict)
    relocks: int = 0
    #: owner records at its claim
    epochs: dict[str, int] = field(default_factory=dict)

    @property
    def executing(self) -> bool:
        return self.state == "running" and not self.host.kernel.asleep and not self.host.kernel.dead

    def write(self) -> None:
        """Each second, to each disk, one write on its way at a time."""
        if self.state in ("dead", "gone") or self.host.kernel.dead:
            return
        for path in self.locks if self.executing else ():
            if path not in self.writing and path not in self.stakes:
                self._write_to(path)
        self.host.sim.after(1.0, self.write)

    def _write_to(self, path: str) -> None:
        description = self.locks[path]
        server, file, kernel = description.server, description.file, self.host.kernel
        self.writing.add(path)

        def done(problem: str, reached: bool) -> None:
            self.writing.discard(path)
            if problem and self.state in ("running", "frozen"):
                self.host.say(f"   {self.name}: I/O error {problem} for the guest on {path}")
                if not description.lost:
                    self.host.sim.violation("guest-error", f"{self.name} has not lost {path}")

        through = description if self.pinned else None
        if through is not None and through.lost:
            done("EIO", False)
            return
        serve = lambda: server.write(kernel, file, self.name, self.epochs.get(path, 0))  # noqa: E731
        kernel.send(Request(kernel, server, file, through, serve, done, write=True))

    def lock_again(self, order: Relock) -> None:
        """The kernel forgets that the lock was lost once it is unlocked; only then a request goes out."""
        path, item = next(
            (path, item) for path, item in self.locks.items() if lock_id(self.name, path).key == order.key
        )
        kernel, sent = self.host.kernel, self.host.sim.now

        def done(problem: str, from_server: bool) -> None:
            if problem:
                self.host.sim.after(5.0, lambda: self.lock_again(order))
                return
            item.lost = False
            if item not in kernel.descriptions:
                kernel.hold(item)
            self.granted[path], self.relocks = sent, self.relocks + 1
            self.host.say(f"   {self.name} has the lock on {path} again")
            self.host.tell(self)

        kernel.send(Request(kernel, item.server, item.file, None, lambda: item.server.lock(item), done))

    def info(self) -> VmInfo:
        return VmInfo(
            id=self.name,
            title=f"VM '{self.name}'",
            locks=tuple(self.lock_info(path) for path in sorted(self.locks)),
            policy=self.policy,
            process=self.state in ("running", "frozen", "blocked"),
            frozen=self.was_frozen,
            fencing=self.fencing,
            rivals=tuple(self.rivals.values()),
            held=self.held,
        )

    def lock_info(self, path: str) -> LockInfo:
        mount = self.locks[path].server.name
        granted = self.granted.get(path)
        through = f"{id(self.locks[path])}.{self.relocks}"
        epoch = self.epochs.get(path) if self.host.has_records and path not in self.stakes else None
        stake = self.stakes.get(path, Stake.VITAL)
        return LockInfo(lock_id(self.name, path), mount, path, self.pinned, granted, through, epoch, stake)


def lock_id(vm: str, path: str) -> LockId:
    server, _, file = path.partition(":")
    return LockId(vm, (zlib.crc32(server.encode()), zlib.crc32(file.encode())))


class Start:
    """One start of a VM on one host. A disk that somebody else has is tried again each second."""

    def __init__(self, host: Host, vm: Vm, paths: list[str]) -> None:
        self._host = host
        self._vm = vm
        self._paths = paths

    def go_on(self) -> None:
        missing = [path for path in self._paths if path not in self._vm.locks]
        if missing:
            self._host.claim(self._vm, missing[0], self.go_on)
        else:
            self._prove(partial(self._record, list(self._paths)))

    def _prove(self, then: Callable[[], None]) -> None:
        """Go on if nothing has happened to the client since its first lock, else ask for each lock, or refuse."""
        vm, host = self._vm, self._host
        now = {name: host.kernel.sessions(name) for name in vm.sessions}
        if now == vm.sessions or not host.proves_starts:
            then()
            return
        vm.sessions = now
        host.say(f"   {vm.name}: the client had to set up its state again while it was being started")
        self._ask(list(vm.locks.values()), partial(self._prove, then))

    def _ask(self, items: list[Description], then: Callable[[], None]) -> None:
        if not items:
            then()
            return
        item, *rest = items

        def done(problem: str, reached: bool, asked: bool) -> None:
            if asked and not problem:
                self._ask(rest, then)
            else:
                self._refuse(item, problem)

        self._host.ask(item, done)

    def _refuse(self, item: Description, problem: str) -> None:
        vm, host = self._vm, self._host
        host.say(f"   {vm.name} is refused: the lock on {item.path} is not proven ({problem})")
        vm.state = "gone"
        host.release(vm, lambda: None)

    def _record(self, paths: list[str]) -> None:
        """Write a record for each path, then run."""
        if not paths:
            self._prove(self._run)
            return
        path, *rest = paths
        vm, host, item = self._vm, self._host, self._vm.locks[paths[0]]

        def write() -> str:
            host.epochs[path] = vm.epochs[path] = host.epochs.get(path, 0) + 1
            return ""

        def ask(number: int) -> None:
            last = number == RECORD_REQUESTS
            then = partial(self._record, rest) if last else partial(ask, number + 1)
            serve = write if last else lambda: ""
            host.kernel.send(Request(host.kernel, item.server, item.file, None, serve, lambda *_: then()))

        if item.server.round_trip > ROUND_TRIP:
            ask(1)
        else:
            write()
            self._record(rest)

    def _run(self) -> None:
        self._host.vms[self._vm.name] = self._vm
        self._host.runs(self._vm)
