"""The VMs that this host guards, and their state files in /run/vmguard/vms (read again after a crash)."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from vmguard.adapters.linux import clock, statefile
from vmguard.adapters.linux.proc import Key
from vmguard.core.locks.claim_states import State, allowed
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import Range, describe
from vmguard.core.sources.process_arguments import Kind

log = logging.getLogger("vmguard.registry")

SCHEMA = 1
#: who manages a VM; bare: nobody whom we know
LIBVIRT, PROXMOX, BARE = HYPERVISORS = ("libvirt", "proxmox", "bare")
#: where a VM comes from when nobody wrote down who has its disks
ANOTHER_HOST = "another host"


@dataclass(frozen=True)
class Pin:
    """Whose description carries a lock."""

    pid: int
    fd: int
    #: the process's name, for people
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        who = f"{self.name} (pid {self.pid})" if self.name else f"pid {self.pid}"
        return f"descriptor {self.fd} of {who}"


@dataclass
class GuardedProcess:
    """A process that does I/O for a VM: QEMU itself, or one of its helpers. It is followed by its pidfd."""

    pid: int
    kind: Kind
    name: str = ""
    #: when it began, in clock ticks since boot: with the pid it names a process for ever
    started: int = 0
    pidfd: int = -1

    @property
    def title(self) -> str:
        return f"{self.name or self.kind} (pid {self.pid})"

    def as_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "kind": str(self.kind), "name": self.name, "started": self.started}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedProcess:
        """Raises KeyError, TypeError or ValueError when the value is not one."""
        return cls(int(value["pid"]), Kind(value["kind"]), str(value.get("name", "")), int(value.get("started", 0)))


@dataclass
class GuardedFile:
    """One file of a VM and the descriptor through which it is locked."""

    path: str
    mode: str
    role: str
    source: str
    key: Key
    pieces: list[Range]
    #: where it really lies, whatever links the path leads through: there its owner record is
    real: str = ""
    #: our descriptor of it: the claim's own while it is held, a copy of the process's once it is pinned
    fd: int = -1
    epoch: int = 0
    #: pinned: which descriptor of which process carries the lock
    pin: Pin | None = None
    #: a daemon before this one had pinned it: what systemd kept of it is a copy of that description
    was_pinned: bool = False
    #: looks in a row that did not find it open
    absent: int = 0
    #: why it is only held although QEMU has it open, in words
    weaker: str = ""
    #: several VMs may write to it at once (``<shareable/>``, share-rw): its lock stays a shared one
    shareable: bool = False
    #: its claim was exclusive: nothing that comes makes it shareable
    owned: bool = False
    #: found open, and not named by any claim: hot-plugged, a snapshot's overlay, a VM without its hook
    found: bool = False
    #: a process of the VM had it open at least once
    seen: bool = False
    #: who has it locked although this VM writes to it; empty when nobody does
    conflict: str = ""
    #: CLOCK_BOOTTIME seconds before which a pin that failed is not tried again
    retry: float = 0.0
    #: our descriptor carries no more than the foothold: the VM comes in, and the source has the lock
    foothold: bool = False
    #: CLOCK_BOOTTIME seconds when the request that got this lock was sent; 0: a daemon before this one got it
    granted: float = 0.0

    #: left to the host that the VM migrates to
    outgoing: bool = False

    def __post_init__(self) -> None:
        self.owned = self.owned or (self.mode == EXCLUSIVE and not self.found)

    def hand_over(self, outgoing: bool) -> None:
        """The VM has stopped writing to it, and nothing of ours is locked any more, if it is another host's turn."""
        self.outgoing = outgoing
        if outgoing:
            self.pin = None

    @property
    def guard(self) -> str:
        """``pinned`` on the process's own description, ``held`` beside it; ``incoming``: the foothold alone.

        Without a lock: ``outgoing`` when it is left to the target of a migration, ``conflict`` when somebody else has
        it, ``pending`` before the first try, ``lost`` when a daemon took it with it.
        """
        if self.pin is not None:
            return "pinned"
        if self.fd >= 0:
            return "incoming" if self.foothold else "held"
        if self.outgoing:
            return "outgoing"
        if self.conflict:
            return "conflict"
        return "pending" if self.found else "lost"

    @property
    def held_mode(self) -> str | None:
        """The lock that our own descriptor carries; None when it carries none."""
        return self.mode if self.fd >= 0 and not self.foothold else None

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "mode": self.mode,
            "role": self.role,
            "source": self.source,
            "real": self.real or self.path,
            "device": self.key[0],
            "inode": self.key[1],
            "pieces": [list(piece) for piece in self.pieces],
            "ranges": describe(self.pieces),
            "guard": self.guard,
            "was_pinned": self.was_pinned and self.fd >= 0,
            "weaker": self.weaker,
            "conflict": self.conflict,
            "shareable": self.shareable,
            "owned": self.owned,
            "found": self.found,
            "foothold": self.foothold,
            "through": f"descriptor {self.pin.fd} of pid {self.pin.pid}" if self.pin is not None else "",
            "process": self.pin.name if self.pin is not None else "",
            "epoch": self.epoch,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedFile:
        """Raises KeyError, TypeError or ValueError when the value is not one."""
        return cls(
            path=str(value["path"]),
            mode=str(value["mode"]),
            role=str(value["role"]),
            source=str(value["source"]),
            real=str(value.get("real", value["path"])),
            granted=float(value.get("granted", 0.0)),
            key=(int(value["device"]), int(value["inode"])),
            pieces=[(int(start), int(length)) for start, length in value["pieces"]],
            epoch=int(value.get("epoch", 0)),
            shareable=bool(value.get("shareable")),
            owned=bool(value.get("owned")),
            found=bool(value.get("found")),
            foothold=bool(value.get("foothold")),
            retry=math.inf if value.get("foothold") else 0.0,
            seen=bool(value.get("found") or value.get("weaker")),  # neither comes about but by a look at an open file
            was_pinned=value.get("guard") == "pinned" or value.get("was_pinned") is True,
        )


@dataclass
class GuardedVm:
    """One VM's claim. ``move`` is the only way its state changes."""

    hypervisor: str
    name: str
    uuid: str
    files: list[GuardedFile] = field(default_factory=list)
    state: State = State.OFFERED
    claimed: str = field(default_factory=clock.wall)
    why: str = ""
    #: of its QEMU, also when that has ended
    pid: int = 0
    #: all that live and do I/O for it
    processes: list[GuardedProcess] = field(default_factory=list)
    #: it was started without its hook, or was adopted: how, in words
    without_hook: str = ""
    #: nobody remembers its claim (orphans.py): whether a QEMU has written with these locks is not known
    rebuilt: bool = False
    #: the host that it is migrating from, which rightly still has its disks; empty when it is not
    incoming: str = ""
    #: why the guard has stopped it (SIGSTOP) over a conflict, empty when it has not
    stopped: str = ""
    #: pidfd of the hook until it says that its claim stands
    claimant: int = -1
    #: CLOCK_BOOTTIME seconds after which a start without QEMU is looked into
    deadline: float = 0.0
    start_is_over: bool = False
    #: QEMU's last writes are proven to be through; a process is just waiting for them
    drained: bool = False
    draining: bool = False
    #: a worker looks who has its files open
    looking: bool = False
    #: stopped by the watchdog (SIGSTOP)
    frozen: bool = False
    #: why it is being fenced, empty while it is not
    fencing: str = ""
    when_released: list[Callable[[], None]] = field(default_factory=list)
    #: something about it has changed since the watchdog looked at it
    news: bool = True

    @functools.cached_property  # asked for each time that the VM is looked at
    def id(self) -> str:
        return f"{self.hypervisor}-{self.uuid}"

    @property
    def title(self) -> str:
        """The VM for people; a hostile name cannot forge a log line."""
        return f"VM {self.name!r}"

    @property
    def main(self) -> GuardedProcess | None:
        """The process whose end is the VM's end."""
        return next((process for process in self.processes if process.pid == self.pid), None)

    @property
    def pidfd(self) -> int:
        return -1 if self.main is None else self.main.pidfd

    @property
    def pidfds(self) -> list[int]:
        """Of all processes that must stop, or die, when the VM has to."""
        return [process.pidfd for process in self.processes if process.pidfd >= 0]

    def process(self, pid: int) -> GuardedProcess | None:
        return next((process for process in self.processes if process.pid == pid), None)

    def store_name(self, file: GuardedFile) -> str:
        """The name under which systemd keeps a file's descriptor: the same for every daemon after this one."""
        return f"{self.id}.{file.key[0]:x}.{file.key[1]}"

    def move(self, new: State, why: str) -> None:
        """Go to another state. Raises ValueError when the life of a claim does not allow it."""
        if new is self.state:
            return
        if not allowed(self.state, new):
            raise ValueError(f"{self.title} cannot go from {self.state} to {new} ({why})")
        log.info("%s: %s => %s: %s", self.title, self.state, new, why)
        self.state = new
        self.why = why
        self.news = True

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "hypervisor": self.hypervisor,
            "name": self.name,
            "uuid": self.uuid,
            "state": str(self.state),
            "why": self.why,
            "claimed": self.claimed,
            "pid": self.pid,
            "processes": [process.as_json() for process in self.processes],
            "without_hook": self.without_hook,
            "rebuilt": self.rebuilt,
            "incoming": self.incoming,
            "stopped": self.stopped,
            "frozen": self.frozen,
            "fencing": self.fencing,
            "files": [file.as_json() for file in self.files],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedVm:
        """Raises KeyError, TypeError or ValueError when the value is not one."""
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']} is not {SCHEMA}")
        return cls(
            hypervisor=str(value["hypervisor"]),
            name=str(value["name"]),
            uuid=str(value["uuid"]),
            files=[GuardedFile.from_json(item) for item in value["files"]],
            state=State(value["state"]),
            why=str(value["why"]),
            claimed=str(value["claimed"]),
            pid=int(value["pid"]),
            processes=[GuardedProcess.from_json(item) for item in value.get("processes", [])],
            without_hook=str(value.get("without_hook", "")),
            rebuilt=bool(value.get("rebuilt")),
            incoming=str(value.get("incoming", "")),
            stopped=str(value.get("stopped", "")),
            frozen=bool(value.get("frozen")),
            fencing=str(value.get("fencing", "")),
        )


class Registry:
    """All guarded VMs by id, mirrored in one state file each."""

    def __init__(self, run_dir: str) -> None:
        self._folder = os.path.join(run_dir, "vms")
        self._vms: dict[str, GuardedVm] = {}
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def __iter__(self) -> Iterator[GuardedVm]:
        return iter(list(self._vms.values()))

    def __len__(self) -> int:
        return len(self._vms)

    @property
    def ids(self) -> Set[str]:
        return self._vms.keys()

    def get(self, vm_id: str) -> GuardedVm | None:
        return self._vms.get(vm_id)

    def holder_of(self, key: Key) -> list[GuardedVm]:
        """The VMs that have a file among theirs."""
        return [vm for vm in self if any(file.key == key for file in vm.files)]

    def add(self, vm: GuardedVm) -> None:
        """Take a VM in and write its state. Raises OSError when that cannot be written: nothing is kept then."""
        statefile.write(self._path(vm), vm.as_json(), sync=False)  # locks and claims end with this boot anyway
        self._vms[vm.id] = vm

    def take_up(self, vm: GuardedVm) -> None:
        """Take a VM in that runs already: it is guarded also when its state cannot be written."""
        self._vms[vm.id] = vm
        self.save(vm)

    def save(self, vm: GuardedVm) -> None:
        """Write the state of a VM that lives on; a full disk is reported and harms nobody."""
        vm.news = True
        try:
            statefile.write(self._path(vm), vm.as_json(), sync=False)
        except OSError as problem:
            log.error(
                "%s: its state cannot be written (%s); a crash of the daemon would find an older one", vm.title, problem
            )

    def remove(self, vm: GuardedVm) -> None:
        self._vms.pop(vm.id, None)
        statefile.remove(self._path(vm))

    def load(self) -> list[GuardedVm]:
        """The VMs of the daemon that ran before; unreadable files are reported and left for a person to look at."""
        for name in sorted(os.listdir(self._folder)):
            if name.endswith(".new"):  # a daemon was killed while it wrote this; the old one beside it is whole
                statefile.remove(os.path.join(self._folder, name))
            if not name.endswith(".json"):
                continue
            value = statefile.read(os.path.join(self._folder, name))
            if value is None:
                continue
            try:
                vm = GuardedVm.from_json(value)
            except (KeyError, TypeError, ValueError) as problem:
                log.error("state file %s is not understood (%s); going on without it", name, problem)
                continue
            self._vms[vm.id] = vm
        return list(self._vms.values())

    def _path(self, vm: GuardedVm) -> str:
        return os.path.join(self._folder, f"{vm.id}.json")


def was_open(file: GuardedFile) -> bool:
    """A claim that QEMU has not taken into use yet, or whose format it has only looked at, does not end with that.

    A file that the daemon before this one had pinned may have been closed while there was none."""
    return file.pin is not None or file.was_pinned or (file.seen and (file.found or bool(file.weaker)))
