"""A process that runs a VM, or helps one, and that no guarded VM has."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from vmguard.adapters.linux.proc import CommandLine, Key, OpenFile
from vmguard.adapters.linux.standing import Standing
from vmguard.core.sources.process_arguments import Identity, Kind, Served, identity, served
from vmguard.daemon.scan.process_fds import ProcessFds


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


def once(files: list[OpenFile]) -> list[OpenFile]:
    """Return each file once, its writer if there is one."""
    found: dict[Key, OpenFile] = {}
    for user in files:
        if user.key not in found or user.info.writable:
            found[user.key] = user
    return list(found.values())
