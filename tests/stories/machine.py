"""A VM of the simulated world: it writes to each of its disks each second while it executes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.stories.world import Description, Request
from vmguard.core.watchdog.events import LockId, LockInfo, Relock, Rival, VmInfo
from vmguard.core.watchdog.fence_ladder import Rung
from vmguard.core.watchdog.policy import Policy, Stake

if TYPE_CHECKING:
    from tests.stories.host import Host


@dataclass(eq=False)
class Vm:
    """A VM on one host: its QEMU's state is what really is, whatever the watchdog believes."""

    name: str
    host: Host
    policy: Policy
    pinned: bool = True
    locks: dict[str, Description] = field(default_factory=dict)
    granted: dict[str, float] = field(default_factory=dict)
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
