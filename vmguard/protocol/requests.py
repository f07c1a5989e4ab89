"""The requests that the daemon answers: one table, which its server, its clients and the manual page read.

Only root, or the user that the daemon runs as, may connect at all (SO_PEERCRED); ``sender`` says which program of
theirs sends a request. Whoever may open the socket for readers may send those that ``reads`` marks, there. The hook
builds its messages by hand, because this table would cost its hot path an import: ``tests/unit/test_requests.py`` holds
what it sends against the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vmguard.errors import WireError
from vmguard.protocol.messages import shown
from vmguard.protocol.wire import Message

#: of 2**64
_INODE_DIGITS = 20
_MAX_FLOAT = sys.float_info.max


class Sender(StrEnum):
    """The program that sends a request."""

    HOOK = "hook"
    COMMAND_LINE = "command line"


class Answer(StrEnum):
    """The form of a request's answer. A request that is refused has an error as its answer, whatever the form."""

    #: nothing is sent back
    NONE = "none"
    #: one message
    MESSAGE = "message"
    #: one message and a memory file with a list in JSON: a thousand VMs do not fit into a message. To readers no
    #: descriptor is passed: they get the text in parts
    LIST = "list"


@dataclass(frozen=True)
class Kind:
    """A type of values, in words and as a check."""

    words: str
    fits: Callable[[object], bool]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """Return whether a value is a number that every float can hold: JSON of others may have NaN, or 1e999."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MAX_FLOAT <= value <= _MAX_FLOAT


def _is_list_of(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _are_epochs(value: object) -> bool:
    return isinstance(value, dict) and all(
        inode.isascii() and inode.isdigit() and len(inode) <= _INODE_DIGITS and _is_integer(epoch)
        for inode, epoch in value.items()
    )


TEXT = Kind("text", lambda value: isinstance(value, str))
TEXTS = Kind("list of texts", _is_list_of(str))
INTEGER = Kind("integer", _is_integer)
NUMBER = Kind("number", _is_number)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
FILES = Kind("list of files", _is_list_of(dict))
EPOCHS = Kind("object of integers by inode", _are_epochs)


@dataclass(frozen=True)
class Key:
    """One key of a request. An optional key may be missing or null."""

    name: str
    kind: Kind
    required: bool = True


def _optional(name: str, kind: Kind) -> Key:
    return Key(name, kind, required=False)


@dataclass(frozen=True)
class RequestType:
    """One row of the table."""

    name: str
    sender: Sender
    keys: tuple[Key, ...]
    answer: Answer
    #: keys of the answer's message; for a list: of each item, the most important ones
    answer_keys: tuple[str, ...]
    description: str
    #: it changes nothing, and hands nothing over: readers may send it, too
    reads: bool = False

    def check(self, message: Mapping[str, Any]) -> None:
        """Raise WireError when a key is missing or has a value of another type. Unknown keys are let pass."""
        for key in self.keys:
            value = message.get(key.name)
            if value is None and not key.required:
                continue
            if value is None:
                raise WireError(f"{self.name}: the key {key.name!r} is missing")
            if not key.kind.fits(value):
                raise WireError(f"{self.name}: {key.name!r} is {shown(value)}, not a {key.kind.words}")


_VM = (Key("hypervisor", TEXT), Key("name", TEXT), Key("uuid", TEXT))

_ROWS = (
    RequestType(
        "claim",
        Sender.HOOK,
        (*_VM, _optional("incoming", TEXT)),
        Answer.MESSAGE,
        ("settings",),
        "a hook is about to claim a VM's disks: settings, or why not; incoming: the host that it migrates from",
    ),
    RequestType(
        "hold",
        Sender.HOOK,
        (
            *_VM,
            Key("files", FILES),
            _optional("final", FLAG),
            _optional("warnings", TEXTS),
            _optional("incoming", TEXT),
        ),
        Answer.MESSAGE,
        (),
        "take over locked descriptors (SCM_RIGHTS), one for each file; the last one says so with final=true",
    ),
    RequestType("commit", Sender.HOOK, (), Answer.NONE, (), "the hook itself says that the claim stands"),
    RequestType(
        "recorded",
        Sender.HOOK,
        (_optional("epochs", EPOCHS), _optional("problems", TEXTS)),
        Answer.NONE,
        (),
        "the owner records were written: their epochs, and what went wrong",
    ),
    RequestType(
        "refused",
        Sender.HOOK,
        (Key("reason", TEXT),),
        Answer.NONE,
        (),
        "the hook refuses the start that it has made a claim for, and why: for the history",
    ),
    RequestType(
        "started", Sender.HOOK, _VM, Answer.MESSAGE, (), "the hypervisor says that QEMU is there: look at once"
    ),
    RequestType(
        "ended",
        Sender.HOOK,
        (*_VM, _optional("reason", TEXT)),
        Answer.MESSAGE,
        (),
        "the hypervisor says that a VM ended, and why: a hint, never a proof (Proxmox's hook gets no answer)",
    ),
    RequestType(
        "incoming", Sender.HOOK, _VM, Answer.MESSAGE, (), "the next start of this VM is a live migration to here"
    ),
    RequestType(
        "restoring",
        Sender.HOOK,
        (*_VM, _optional("saved", NUMBER)),
        Answer.MESSAGE,
        (),
        "the next start of this VM resumes saved memory; saved: when that was written, in seconds since 1970",
    ),
    RequestType(
        "standby",
        Sender.HOOK,
        (),
        Answer.NONE,
        (),
        "this connection waits for the next start of a VM: it is not closed for its silence",
    ),
    RequestType(
        "adopt",
        Sender.COMMAND_LINE,
        (
            _optional("names", TEXTS),
            _optional("all", FLAG),
            _optional("pid", INTEGER),
            _optional("dry_run", FLAG),
            _optional("seconds", NUMBER),
        ),
        Answer.LIST,
        ("name", "uuid", "hypervisor", "pid", "result", "why", "files"),
        "guard VMs that run already, by name, uuid or pid, or all of them",
    ),
    RequestType(
        "status",
        Sender.COMMAND_LINE,
        (),
        Answer.LIST,
        ("name", "uuid", "hypervisor", "pid", "state", "why", "files", "watch"),
        "all guarded VMs of this host",
        reads=True,
    ),
    RequestType(
        "history",
        Sender.COMMAND_LINE,
        (),
        Answer.LIST,
        ("at", "boottime", "level", "code", "text", "fields"),
        "what the watchdog saw and did since the boot, the oldest first",
        reads=True,
    ),
    RequestType(
        "more",
        Sender.COMMAND_LINE,
        (),
        Answer.MESSAGE,
        ("part", "left"),
        "a reader's: the next part of the list that was asked for, and how many characters are left behind it",
        reads=True,
    ),
    RequestType(
        "who",
        Sender.COMMAND_LINE,
        (_optional("device", INTEGER), _optional("inode", INTEGER)),
        Answer.MESSAGE,
        ("vms",),
        "which VMs of this host hold a file",
        reads=True,
    ),
    RequestType(
        "health",
        Sender.COMMAND_LINE,
        (),
        Answer.MESSAGE,
        ("mounts", "fences", "disarmed", "config_problems", "descriptors", "acknowledged"),
        "leases of all mounts, fences under way, whether it is disarmed, a configuration not taken, descriptors in "
        "use, and the time since boot up to which the history is acknowledged",
        reads=True,
    ),
    RequestType(
        "disarm",
        Sender.COMMAND_LINE,
        (Key("seconds", NUMBER), _optional("reason", TEXT), _optional("by", TEXT)),
        Answer.MESSAGE,
        ("disarmed", "survives_restart"),
        "for some seconds nothing is done to VMs",
    ),
    RequestType(
        "arm", Sender.COMMAND_LINE, (_optional("by", TEXT),), Answer.MESSAGE, ("was",), "the watchdog acts again"
    ),
    RequestType(
        "ping",
        Sender.COMMAND_LINE,
        (),
        Answer.MESSAGE,
        ("version", "since", "pid", "vms"),
        "is the daemon alive, and which version",
        reads=True,
    ),
)

REQUESTS: dict[str, RequestType] = {row.name: row for row in _ROWS}


def request_of(message: Message) -> RequestType:
    """Return the row of a message, whose keys have the right types then. Raise WireError."""
    name = message.get("op")
    row = REQUESTS.get(name) if isinstance(name, str) else None
    if row is None:
        raise WireError(f"unknown operation {shown(name)}")
    row.check(message)
    return row
