"""One connection to the daemon, and one request that came over it."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import deque
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
#: of a list in one message to a reader: even with every character escaped it fits
_PART_CHARACTERS = 60_000


@dataclass(eq=False, slots=True)
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
    #: it came by the socket for readers: it may ask, and gets no descriptor
    reads_only: bool = False
    #: it does not take its answers
    gone: bool = False
    #: of a reader's list: all of it while a part is still to be fetched, and how much was
    text: str = ""
    told: int = 0

    def answer(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send an answer. A peer that does not take it is logged, and delays no other peer."""
        self.owed = max(0, self.owed - 1)
        try:
            self.connection.send({"ok": True, **message}, fds)
        except (OSError, WireError) as problem:
            self.gone = True
            level = logging.DEBUG if self.reads_only else logging.INFO
            log.log(level, "pid %d does not take its answer: %s", self.pid, problem)

    def answer_list(self, found: list[dict[str, Any]]) -> None:
        """Send a list of any length: in a memory file, or its first part to a reader."""
        if self.reads_only:
            self.text, self.told = json.dumps(found), 0
            self.answer({"version": vmguard.__version__, **self.next_part()})
            return
        fd = os.memfd_create("vmguard-answer", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as stream:
            size = stream.write(json.dumps(found).encode())
            stream.flush()
            self.answer({"version": vmguard.__version__, "bytes": size}, (fd,))

    def next_part(self) -> Message:
        """Return the next part of a reader's list, and how many characters are left behind it."""
        part = self.text[self.told : self.told + _PART_CHARACTERS]
        self.told += len(part)
        left = len(self.text) - self.told
        if not left:
            self.text, self.told = "", 0
        return {"part": part, "left": left}

    def refuse(self, problem: Exception) -> None:
        """Send an error as the answer."""
        hint = problem.hint if isinstance(problem, VmguardError) else ""
        error = {"message": str(problem)[:_ERROR_CHARACTERS], "hint": hint[:_ERROR_CHARACTERS]}
        self.answer({"ok": False, "error": error})


@dataclass(eq=False, slots=True)
class Entrance:
    """One listening socket, and whoever has come in by it without a claim."""

    listener: socket.socket
    #: whoever comes in here may ask, and change nothing
    reads_only: bool = False
    #: by descriptor: connections that make no claim, the one that has been silent longest first
    others: dict[int, Session] = field(default_factory=dict)
    #: readers whose request waits for its turn, which are not watched meanwhile
    queue: deque[Session] = field(default_factory=deque)
    #: connections that a thread is closing
    closing: int = 0
    #: until when readers are not served, in the loop's time: they get a part of it only
    rests_until: float = 0.0
    #: when it was last logged that connections have to wait
    told: float = -1e9

    def is_silent(self, session: Session, since: float) -> bool:
        """Return whether a connection owes nothing, is owed nothing, and was not heard of since then."""
        return not session.owed and session not in self.queue and session.heard <= since

    @property
    def waiting(self) -> int:
        """How many characters of lists are kept here until they are fetched."""
        return sum(len(session.text) for session in self.others.values())


@dataclass(frozen=True)
class Request:
    """One request whose keys have the types of the table (vmguard/protocol/requests.py)."""

    session: Session
    message: Message
    #: descriptors that came with it; the server closes those that its handler does not take out of here
    fds: list[int]


#: serves a request; returns its answer, or None if there is none, or none yet; raises VmguardError or OSError to refuse
Handler = Callable[[Request], Message | None]
