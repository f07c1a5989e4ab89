"""What a storage server can say, in types. What an adapter cannot know is None, and is named in ``unknown``. Pure.

All words in it are a stranger's: they are kept as they came, and are made harmless where they are shown
(vmguard/core/words.py). Times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.core.servers.names import host_in, hosts

#: states of a client (client_info_show in fs/nfsd/nfs4state.c)
CONFIRMED, COURTESY, EXPIRABLE, UNCONFIRMED = "confirmed", "courtesy", "expirable", "unconfirmed"


@dataclass(frozen=True)
class Times:
    """The server's own spans. ``lockd_grace``: of NFSv3's lock manager, which holds up NFSv4 locks, too."""

    lease: float | None = None
    grace: float | None = None
    #: None: it does not run
    lockd_grace: float | None = None

    @property
    def new_locks_after(self) -> float | None:
        """How long after the server's start a lock is new at the latest: no lock manager is in grace then.

        A lock waits while ANY of them is (locks_in_grace in fs/nfs_common/grace.c).
        """
        known = [span for span in (self.grace, self.lockd_grace) if span is not None]
        return max(known) if self.grace is not None else None


@dataclass(frozen=True)
class Grace:
    """The grace period, as it stands. None: not known."""

    #: of NFSv4's lock manager: in it nothing can be opened or locked but what is reclaimed
    v4: bool | None = None
    #: of NFSv3's: NFSv4 opens succeed in it, new locks do not
    lockd: bool | None = None
    #: since the server was started, by its log
    age: float | None = None
    #: the ids of clients that may reclaim, and of those that have done so
    may_reclaim: Sequence[str] = ()
    reclaimed: Sequence[str] = ()

    @property
    def holds_up_locks(self) -> bool | None:
        """Whether a new lock waits now."""
        if self.v4 is None and self.lockd is None:
            return None
        return bool(self.v4) or bool(self.lockd)

    @property
    def missing(self) -> list[str]:
        """The ids of clients that may still reclaim and have not."""
        return [client for client in self.may_reclaim if client not in self.reclaimed]

    def left(self, times: Times) -> float | None:
        """Return for how long new locks wait yet, at the latest; 0 when they do not; None: not known."""
        if self.holds_up_locks is None:
            return None
        spans = [times.grace if self.v4 else 0.0, times.lockd_grace if self.lockd else 0.0]
        if any(span is None for span in spans):
            return None
        longest = max(span for span in spans if span is not None)
        return max(0.0, longest - (self.age or 0.0)) if self.holds_up_locks else 0.0


@dataclass(frozen=True)
class Client:
    """One NFSv4 client that the server knows now."""

    #: the server's number for it, and its client id; both change with each of its boots
    number: str
    clientid: str
    #: as the client calls itself: ``Linux NFSv4.2 ID/HOST``
    name: str
    address: str
    state: str
    minor: int | None = None
    #: seconds since it last renewed its lease
    idle: float | None = None
    #: whether all of its states could be read
    complete: bool = True

    @property
    def host(self) -> str:
        return host_in(self.name)


@dataclass(frozen=True)
class Lock:
    """One lock, open or delegation that a client has on a file."""

    client: Client
    #: ``lock``, ``open``, ``deleg``, ``layout``
    kind: str
    #: of the file system, ``MAJOR:MINOR`` in hex as the server writes it
    device: str
    inode: int
    #: the last parts of its path; ``/`` after a reclaim
    file: str = ""
    access: str = ""


@dataclass(frozen=True)
class Memory:
    """Where the server writes down its clients, to know them after a reboot."""

    #: ``nfsdcld``, ``legacy``, ``UMH upcall``; empty: its log does not tell any more
    tracker: str = ""
    #: whether the process that keeps the database runs
    keeper_runs: bool | None = None
    path: str = ""
    #: why it cannot be read; empty when it can
    problem: str = ""
    #: the type of the file system it lies on
    filesystem: str = ""
    #: of this epoch; the ids that are written down for the next reboot
    epoch: int | None = None
    recorded: Sequence[str] = ()

    @property
    def is_unattended(self) -> bool:
        """Whether nfsdcld, which is to keep the record, is not there. A server may be tracked by something else."""
        return self.keeper_runs is False and ("nfsdcld" in self.tracker or (not self.tracker and not self.problem))


@dataclass(frozen=True)
class Export:
    """One exported folder, and to whom with which options."""

    folder: str
    to: str
    options: Sequence[str] = ()


@dataclass(frozen=True)
class LogLine:
    """A line of the server's kernel log about nfsd or lockd. ``age``: seconds ago."""

    age: float
    text: str


@dataclass(frozen=True)
class ServerFacts:
    """All that a server said at one moment."""

    kind: str
    version: str = ""
    host: str = ""
    #: by which clients tell whether another server knows their state, too (RFC 8881, 2.10.5)
    scope: str = ""
    boot_id: str = ""
    up: bool | None = None
    #: seconds since it booted
    uptime: float | None = None
    versions: Sequence[str] = ()
    times: Times = Times()
    grace: Grace = Grace()
    clients: Sequence[Client] | None = None
    locks: Sequence[Lock] = ()
    memory: Memory | None = None
    exports: Sequence[Export] | None = None
    log: Sequence[LogLine] | None = None
    delegations: bool | None = None
    #: ``MAJOR:MINOR`` in hex -> mount point and type of each file system on which a client has a state
    filesystems: Sequence[tuple[str, str, str]] = ()
    #: what cannot be known, and why: in words
    unknown: Sequence[str] = ()

    def serves(self, version: str) -> bool | None:
        """Return whether it serves a version, as ``3`` or ``4.0``; None: not known."""
        return f"+{version}" in self.versions if self.versions else None

    @property
    def dead_on_record(self) -> list[str]:
        """The hosts that are on record and not there now; none while that is not known, or still changes in grace."""
        if self.memory is None or self.clients is None or self.grace.v4 is not False:
            return []
        there = {client.name for client in self.clients if client.state == CONFIRMED}
        return hosts([name for name in self.memory.recorded if name not in there])

    def locks_of(self, inode: int) -> list[Lock]:
        """Return the locks on every file of this number, on whichever file system."""
        return [lock for lock in self.locks if lock.inode == inode and lock.kind == "lock"]
