"""A process that runs a VM, or helps one, and that no guarded VM has."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from vmguard.adapters.linux.proc import CommandLine, Key, OpenFile
from vmguard.adapters.linux.standing import Standing
from vmguard.core.sources.process_arguments import Identity, Kind, Served, identity, served
from vmguard.daemon.scan.process_fds import OF_A_STRANGER, OF_A_VM, Limits, ProcessFds


@dataclass
class UnclaimedProcess:
    """A process that looks like QEMU, or like one of its helpers, and belongs to no guarded VM."""

    line: CommandLine
    birth: int
    kind: Kind
    standing: Standing
    fds: ProcessFds
    #: its ancestors when it was found
    ancestors: frozenset[int]
    #: it is root's, or a VM's, or runs as QEMU's user
    is_trusted: bool
    #: its open files that a lock may guard
    files: list[OpenFile] = field(default_factory=list)
    told: bool = False

    @property
    def pid(self) -> int:
        return self.line.pid

    @property
    def arguments(self) -> list[str]:
        return self.line.arguments

    @property
    def limits(self) -> Limits:
        """How much of it is looked at, and kept: what runs as QEMU's user may be a thousand of a guest's."""
        if self.standing.is_root:
            return OF_A_VM
        return OF_A_STRANGER if self.standing.scope is None else OF_A_VM._replace(names=1 << 14)

    @functools.cached_property
    def about(self) -> Identity:
        """What it says it is, if it is a QEMU."""
        return identity(self.arguments)

    @functools.cached_property
    def served(self) -> Served:
        """The VMs that it says it serves, if it is a helper."""
        return served(self.arguments)

    @property
    def title(self) -> str:
        """Return what it calls itself."""
        return self.about.name or self.about.vmid or self.about.uuid


def most_kept(found: Standing) -> int:
    """Return the bytes of a process's arguments that are kept, by who can have a thousand of its kind."""
    if found.is_root:
        return 1 << 20
    return 1 << 14 if found.scope is not None else 1 << 13


def once(files: list[OpenFile]) -> list[OpenFile]:
    """Return each file once, its writer if there is one."""
    found: dict[Key, OpenFile] = {}
    for user in files:
        if user.key not in found or user.info.writable:
            found[user.key] = user
    return list(found.values())
