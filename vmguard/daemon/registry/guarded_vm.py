"""One guarded VM: its claim, its processes, its files."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmguard.adapters.linux import clock
from vmguard.core.locks.claim_states import State, allowed
from vmguard.core.sources.process_arguments import Kind
from vmguard.core.words import file_name, vm_title
from vmguard.daemon.registry.guarded_file import GuardedFile

log = logging.getLogger("vmguard.registry")

SCHEMA = 1
#: the source of a migration when no owner record names the host that holds the disks
ANOTHER_HOST = "another host"
#: files on other mounts that are kept of a VM
_MOST_OTHER_MOUNTS = 16


@dataclass
class GuardedProcess:
    """A process that does I/O for a VM, followed by its pidfd: QEMU itself, or one of its helpers."""

    pid: int
    kind: Kind
    name: str = ""
    #: start time in clock ticks since boot; pid and start time together identify a process
    started: int = 0
    pidfd: int = -1
    #: the kernel vouches that it is the VM's; else it only says so (claim/kinship.py)
    vouched: bool = True
    #: the path of its VM's control group; empty if it is in none
    scope: str = ""

    @property
    def title(self) -> str:
        return f"{self.name or self.kind} (pid {self.pid})"

    def as_json(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "kind": str(self.kind),
            "name": self.name,
            "started": self.started,
            "vouched": self.vouched,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedProcess:
        """Read an entry of a state file. Raises KeyError, TypeError or ValueError when the value is not one."""
        return cls(
            pid=int(value["pid"]),
            kind=Kind(value["kind"]),
            name=str(value.get("name", "")),
            started=int(value.get("started", 0)),
            vouched=bool(value.get("vouched")),
        )


@dataclass
class GuardedVm:
    """One VM's claim. Only ``move`` changes its state."""

    hypervisor: str
    name: str
    uuid: str
    files: list[GuardedFile] = field(default_factory=list)
    state: State = State.OFFERED
    claimed: str = field(default_factory=clock.wall)
    why: str = ""
    #: pid of its QEMU, kept after that has ended; 0 before there was one
    pid: int = 0
    #: all running processes that do I/O for it
    processes: list[GuardedProcess] = field(default_factory=list)
    #: how it came to run without a claim (no hook, or adopted), in words; empty when a hook claimed it
    without_hook: str = ""
    #: rebuilt from stored descriptors (claim/fdstore_recovery.py): it is not known whether a QEMU has written
    rebuilt: bool = False
    #: the host that it is migrating from, which rightly still holds its disks; empty when it is not migrating
    incoming: str = ""
    #: resumed from an earlier daemon, which may have missed a QEMU
    resumed: bool = False
    #: why its run ended, in the hypervisor's own word; empty: not known
    ended: str = ""
    #: why it was stopped (SIGSTOP) after a conflict, until a person continues it; empty when it was not
    held_for_person: str = ""
    #: pidfd of the hook until it confirms its claim; -1 afterwards
    claimant: int = -1
    #: CLOCK_BOOTTIME seconds after which a start without QEMU is examined; None: the end of its task tells
    deadline: float | None = 0.0
    start_is_over: bool = False
    #: QEMU's last writes are proven to have drained
    drained: bool = False
    #: a child process is waiting for them
    draining: bool = False
    #: a thread is looking up which processes have its files open
    looking: bool = False
    #: stopped by the watchdog (SIGSTOP)
    frozen: bool = False
    #: since when: UTC, ISO; empty while it is not
    frozen_since: str = ""
    #: why it is being fenced; empty while it is not
    fencing: str = ""
    #: files without a lock that it writes to on mounts where none is proven to reach other hosts, and why; as of the
    #: last scan
    other_mounts: dict[str, str] = field(default_factory=dict)
    #: called once its locks are released
    when_released: list[Callable[[], None]] = field(default_factory=list)
    #: changed since the watchdog last looked at it
    changed: bool = True

    @functools.cached_property  # asked for in each scan of the VM
    def id(self) -> str:
        return f"{self.hypervisor}-{self.uuid}"

    @property
    def title(self) -> str:
        """Return the VM for people; a hostile name cannot forge a log line."""
        return vm_title(self.name)

    @property
    def may_have_run(self) -> bool:
        """Return whether a QEMU of this claim may have written to its files."""
        return bool(self.pid) or self.rebuilt or self.resumed

    @property
    def main(self) -> GuardedProcess | None:
        """Return the process whose end is the VM's end; None if it has ended or is not known yet."""
        return next((process for process in self.processes if process.pid == self.pid), None)

    @property
    def vouched(self) -> list[GuardedProcess]:
        """Return the processes that are the VM's for certain. Its files, its locks and its death are theirs alone."""
        return [process for process in self.processes if process.vouched or process.pid == self.pid]

    @property
    def pidfd(self) -> int:
        return -1 if self.main is None else self.main.pidfd

    @property
    def pidfds(self) -> list[int]:
        """Return the pidfds of all processes that are stopped or killed with the VM."""
        return [process.pidfd for process in self.processes if process.pidfd >= 0]

    def process(self, pid: int) -> GuardedProcess | None:
        return next((process for process in self.processes if process.pid == pid), None)

    def store_name(self, file: GuardedFile) -> str:
        """Return the name under which systemd stores a file's descriptor, the same for every later daemon."""
        return f"{file_name(self.id)}.{file.key[0]:x}.{file.key[1]}"

    def move(self, new: State, why: str) -> None:
        """Change the state and log it. Raises ValueError if the table of claim states does not allow it."""
        if new is self.state:
            return
        if not allowed(self.state, new):
            raise ValueError(f"{self.title} cannot go from {self.state} to {new} ({why})")
        log.info("%s: %s => %s: %s", self.title, self.state, new, why)
        self.state = new
        self.why = why
        self.changed = True

    def note_other_mounts(self, found: Mapping[str, str]) -> None:
        """Note what a scan has found. It decides nothing: ``vmguard status`` shows it to those who cannot look."""
        self.other_mounts = dict(itertools.islice(found.items(), _MOST_OTHER_MOUNTS))

    def other_mounts_as_json(self) -> list[dict[str, str]]:
        return [{"path": path, "why": why} for path, why in self.other_mounts.items()]

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
            "stopped": self.held_for_person,
            "frozen": self.frozen,
            **({"frozen_since": self.frozen_since} if self.frozen_since else {}),
            "fencing": self.fencing,
            "files": [file.as_json() for file in self.files],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GuardedVm:
        """Read a state file. Raises KeyError, TypeError or ValueError when the value is not one."""
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
            held_for_person=str(value.get("stopped", "")),
            frozen=bool(value.get("frozen")),
            frozen_since=str(value.get("frozen_since") or ""),
            fencing=str(value.get("fencing", "")),
        )
