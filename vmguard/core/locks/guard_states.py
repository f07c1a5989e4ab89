"""How one file of a VM is guarded, as a state machine: what each state proves, and where the lock lives.

========  ==============================================  ====================================================
state     proves                                          the lock is on
========  ==============================================  ====================================================
pending   nothing: no lock was got or handed over yet     nothing
incoming  no third host can claim the file: the byte      our own description, the reservation byte alone
          that every claim leaves free is locked here;
          the source of the migration has the rest
held      no other host can claim the file; writes that   our own description, or our copy of one that a process
          QEMU has queued can still land after the lock   of the VM uses (taken over from the daemon before)
          is lost
pinned    no other host can claim the file, and writes    the description through which the VM does its I/O
          fail (EIO) once the lock is lost
outgoing  the VM writes nothing here any more; the        nothing, or our copy of a description that QEMU has
          target of its migration may have the file       closed
conflict  somebody else has the file although the VM      nothing, or what is left of the lock that was there
          may write to it
lost      a daemon of this host ended, and its            nothing
          descriptor with it
released  the VM needs no guard for it any more           descriptors that are being unlocked and closed
========  ==============================================  ====================================================

The words are part of the JSON schema (``guard`` in the state files, ``status``, ``check``). The machine itself is in
file_guard.py; here are its states, and the words for what else is known of a guarded file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from vmguard.core.locks.plan import EXCLUSIVE


class GuardState(enum.StrEnum):
    PENDING = "pending"
    INCOMING = "incoming"
    HELD = "held"
    PINNED = "pinned"
    OUTGOING = "outgoing"
    CONFLICT = "conflict"
    LOST = "lost"
    RELEASED = "released"


_S = GuardState
#: what may follow; a state may always follow itself (another pin, another rival), except RELEASED
MOVES: dict[GuardState, frozenset[GuardState]] = {
    _S.PENDING: frozenset({_S.INCOMING, _S.HELD, _S.PINNED, _S.OUTGOING, _S.CONFLICT, _S.LOST, _S.RELEASED}),
    _S.INCOMING: frozenset({_S.HELD, _S.PINNED, _S.CONFLICT, _S.RELEASED}),
    _S.HELD: frozenset({_S.PINNED, _S.OUTGOING, _S.CONFLICT, _S.RELEASED}),
    _S.PINNED: frozenset({_S.HELD, _S.OUTGOING, _S.CONFLICT, _S.RELEASED}),
    # A migration that fails leaves the file with this host, or with a rival, or with nobody.
    _S.OUTGOING: frozenset({_S.PENDING, _S.HELD, _S.PINNED, _S.CONFLICT, _S.LOST, _S.RELEASED}),
    _S.CONFLICT: frozenset({_S.HELD, _S.PINNED, _S.OUTGOING, _S.RELEASED}),
    _S.LOST: frozenset({_S.HELD, _S.PINNED, _S.OUTGOING, _S.CONFLICT, _S.RELEASED}),
    _S.RELEASED: frozenset(),
}

SENTENCES: dict[GuardState, str] = {
    _S.PENDING: "not locked yet",
    _S.INCOMING: "reserved here, locked by the host that the VM comes from",
    _S.HELD: "locked beside the VM",
    _S.PINNED: "locked on the VM's own descriptor",
    _S.OUTGOING: "left to the host that the VM migrates to",
    _S.CONFLICT: "locked by somebody else",
    _S.LOST: "lost with the daemon that held it",
    _S.RELEASED: "released",
}

#: this host has the whole lock
LOCKED = frozenset({_S.HELD, _S.PINNED})


class Origin(enum.Enum):
    """How the file came to be guarded; who may share it, and who writes its owner record, follow from that."""

    #: a hook claimed it for this VM alone; nothing that is seen later makes it shareable
    EXCLUSIVE_CLAIM = enum.auto()
    #: a hook claimed it for reading
    SHARED_CLAIM = enum.auto()
    #: claimed as shared, and VMs write to it at once (``<shareable/>``, share-rw): its lock stays a shared one
    SHAREABLE = enum.auto()
    #: a hook reserved it for a VM that comes in: the source of the migration has the lock
    RESERVED = enum.auto()
    #: it was reserved, and has been locked here since; like an exclusive claim, but no hook writes its owner record
    MIGRATED = enum.auto()
    #: open in a process of the VM, and no hook announced it: hot-plugged, an overlay, a VM without its hook
    FOUND = enum.auto()
    #: systemd kept a descriptor with an exclusive lock, and the VM's claim does not name the file
    RECOVERED = enum.auto()

    @classmethod
    def of_claim(cls, mode: str) -> Origin:
        """Return the origin of a file that a hook claimed with that mode."""
        return cls.EXCLUSIVE_CLAIM if mode == EXCLUSIVE else cls.SHARED_CLAIM

    @property
    def is_found(self) -> bool:
        """No claim names the file."""
        return self in (Origin.FOUND, Origin.RECOVERED)

    @property
    def is_owned(self) -> bool:
        """The file is this VM's alone, whatever QEMU's image locks say."""
        return self in (Origin.EXCLUSIVE_CLAIM, Origin.RESERVED, Origin.MIGRATED, Origin.RECOVERED)

    @property
    def needs_record(self) -> bool:
        """The daemon writes the owner record once the file is locked for this VM alone, because no hook does.

        So it is with a backing file that a commit makes the VM's disk: its claim was for reading.
        """
        return self is not Origin.EXCLUSIVE_CLAIM


class Use(enum.Enum):
    """What is known of the VM's use of the file."""

    #: no process of the VM was seen to have it open
    NEVER = enum.auto()
    #: a process had it open, perhaps only to probe its format
    SEEN = enum.auto()
    #: taken into use: pinned once, found open, or open while a pin failed. Only then does its closing end its guard.
    IN_USE = enum.auto()


class DescriptorKind(enum.Enum):
    """Which open file description our descriptor refers to."""

    OWN = enum.auto()
    #: the process's own: what is queued on it fails (EIO) once its lock is lost, also when the process has died
    COPY = enum.auto()


@dataclass(frozen=True)
class Pin:
    """The descriptor whose open file description carries the lock."""

    pid: int
    fd: int
    #: the process's name, for people
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        process = f"{self.name} (pid {self.pid})" if self.name else f"pid {self.pid}"
        return f"descriptor {self.fd} of {process}"


class ClosingCounter:
    """Counts scans in a row that miss a file. One scan is no snapshot: QEMU may be changing descriptors meanwhile."""

    __slots__ = ("_missed",)
    #: scans that must miss a file before it counts as closed
    ENOUGH = 2

    def __init__(self) -> None:
        self._missed = 0

    def scanned(self, missed: bool) -> None:
        self._missed = self._missed + 1 if missed else 0

    @property
    def in_doubt(self) -> bool:
        return self._missed > 0

    @property
    def is_closed(self) -> bool:
        return self._missed >= self.ENOUGH
