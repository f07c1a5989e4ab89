"""What the kernel vouches for of a process: its users, its control group, its ancestors. Every read answers at once.

A process's arguments, its short name and its environment are its own words: any user can start a program under any
name and with any arguments. What stands here no user can forge.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vmguard.adapters.linux import proc
from vmguard.core.sources.vm_scope import VmScope, scope_in

ROOT = 0
#: ancestors that are looked at
_GENERATIONS = 16


@dataclass(frozen=True)
class Standing:
    """One process as the kernel knows it. ``pid`` and ``started`` name it for ever."""

    pid: int
    #: in clock ticks since boot
    started: int
    #: the users that it runs as: real, effective, saved, and for files
    users: frozenset[int]
    #: None: in no VM's control group
    scope: VmScope | None = None

    @property
    def is_root(self) -> bool:
        """Return whether root started it, and it has stayed root: a set-user-ID program has its caller's user, too."""
        return self.users == {ROOT}

    def runs_as(self, users: Collection[int]) -> bool:
        """Return whether it runs as one of these users, and as nobody else."""
        return len(self.users) == 1 and self.users <= frozenset(users)

    @property
    def owner(self) -> str:
        """Return who can start more processes of this kind: a VM by its control group, else a user."""
        return self.scope.path if self.scope is not None else f"user {max(self.users)}"


def of(pid: int) -> Standing | None:
    """Return the standing of the process that has this pid now; None if there is none."""
    started = proc.started(pid)
    try:
        status = proc.read_small(f"/proc/{pid}/status")
        scope = scope_in(proc.read_small(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape"))
    except OSError:
        return None
    users = _users(status)
    return Standing(pid, started, users, scope) if users and started and proc.started(pid) == started else None


def _users(status: bytes) -> frozenset[int]:
    """Return the users of a process's status; none if it tells none.

    Its first line is the process's own name, in which the kernel escapes newlines and nothing else (proc_task_name in
    fs/proc/array.c): a carriage return must not end a line.
    """
    line = status.partition(b"\nUid:")[2].partition(b"\n")[0]
    return frozenset(map(int, line.split()))


def is_roots(pid: int) -> bool:
    """Return whether a process is root's alone; False if it is gone."""
    found = of(pid)
    return found is not None and found.is_root


def ancestors(pid: int) -> list[int]:
    """Return the ancestors of a process, the nearest first, without the first process of all."""
    found: list[int] = []
    while len(found) < _GENERATIONS and (pid := proc.parent(pid)) > 1:
        found.append(pid)
    return found
