"""One connection to the daemon, and one request that came over it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import vmguard
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.errors import VmguardError, WireError
from vmguard.protocol.wire import Connection, Message

log = logging.getLogger("vmguard.api")

#: longest error, and longest hint: even with every character escaped, both fit into one message
_ERROR_CHARACTERS = 4096


@dataclass(slots=True)
class Session:
    """One connection: its peer, and the claim that it is making."""

    connection: Connection
    pid: int
    pidfd: int
    #: of a claim that has not been accepted yet; their descriptors are ours to close
    files: list[GuardedFile] = field(default_factory=list)
    #: of a claim that was accepted
    vm: GuardedVm | None = None
    #: the VM of its claim, for reports: id, name, uuid; empty before there is one
    about: dict[str, str] = field(default_factory=dict)
    #: pidfd of the Proxmox task whose hook this is, -1 if there is none
    task: int = -1
    #: the node that its VM migrates from, empty if that is not known; None: an ordinary start
    source: str | None = None
    #: when the memory was saved that its VM is restored from, 0 if that is not known; None: an ordinary start
    saved: float | None = None
    #: a hook's: it makes a claim, or stands by for one; the daemon never closes it
    stays: bool = False
    #: requests whose answer is still to come
    owed: int = 0
    #: when it was last heard of, in the loop's time
    heard: float = 0.0

    def answer(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send an answer. A peer that does not take it is logged, and delays no other peer."""
        self.owed = max(0, self.owed - 1)
        try:
            self.connection.send({"ok": True, **message}, fds)
        except (OSError, WireError) as problem:
            log.info("pid %d does not take its answer: %s", self.pid, problem)

    def answer_list(self, found: list[dict[str, Any]]) -> None:
        """Send a list of any length, in a memory file."""
        fd = os.memfd_create("vmguard-answer", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as stream:
            size = stream.write(json.dumps(found).encode())
            stream.flush()
            self.answer({"version": vmguard.__version__, "bytes": size}, (fd,))

    def refuse(self, problem: Exception) -> None:
        """Send an error as the answer."""
        hint = problem.hint if isinstance(problem, VmguardError) else ""
        error = {"message": str(problem)[:_ERROR_CHARACTERS], "hint": hint[:_ERROR_CHARACTERS]}
        self.answer({"ok": False, "error": error})


@dataclass(frozen=True)
class Request:
    """One request whose keys have the types of the table (vmguard/protocol/requests.py)."""

    session: Session
    message: Message
    #: descriptors that came with it; the server closes those that its handler does not take out of here
    fds: list[int]


#: serves a request; returns its answer, or None if there is none, or none yet; raises VmguardError or OSError to refuse
Handler = Callable[[Request], Message | None]
