"""A world small enough to trust: NFS servers, their clients' kernels, the network between them. Simulated time.

It is as strict as the measured kernels, or stricter. What it knows:

* a client's locks live on the server for one lease after its last request; a courteous server keeps them until somebody
  else wants one of them, then drops all of that client's state
* after a reboot, locks can be reclaimed within the grace period by clients in the recovery database; nobody else gets a
  lock in that time. Whoever comes too late, or is not in the database, has lost all of its locks
* a client's kernel repeats a request until it is answered, also for a process that is dead; it recovers its state
  before any request goes through; it marks a lock as lost on the description that carried it, answers I/O on that
  description with EIO from then on, without asking the server, and reclaims even a lost lock at the next reboot
* I/O on another description of the same file goes through, lock or no lock

The promise is checked at every accepted write and at every change of a VM: see ``violation``.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

#: seconds from a request to its answer, and until a client notices that its server is back
ROUND_TRIP = 0.002
RECONNECT = 0.3


class Sim:
    """Time, the log, and the violations of the promise."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.violations: list[str] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = until

    def say(self, who: str, text: str) -> None:
        self.lines.append(f"{self.now:9.2f} {who:4} {text}")

    def violation(self, kind: str, text: str) -> None:
        self.say("!!!", f"VIOLATION ({kind}): {text}")
        self.violations.append(kind)


@dataclass(eq=False)
class Description:
    """An open file description of a client's kernel, with the lock on it."""

    kernel: Kernel
    server: Server
    file: str
    locked: bool = False
    lost: bool = False

    @property
    def path(self) -> str:
        return f"{self.server.name}:{self.file}"


@dataclass(eq=False)
class Request:
    """A request that the kernel repeats until it is answered."""

    kernel: Kernel
    server: Server
    file: str
    #: through which it goes, if that one carries a lock
    description: Description | None
    #: at the server: returns the errno's name, empty for success, or None: ask again later (grace)
    serve: Callable[[], str | None]
    done: Callable[[str, bool], None]
    write: bool = False


@dataclass(eq=False)
class Kernel:
    """The NFS client of one boot of one host."""

    sim: Sim
    host: str
    identity: str
    descriptions: list[Description] = field(default_factory=list)
    pending: list[Request] = field(default_factory=list)
    cut_from: set[str] = field(default_factory=set)
    asleep: bool = False
    dead: bool = False
    #: the boot of each server that it has set its state up with
    epochs: dict[str, int] = field(default_factory=dict)
    #: exchange_id, create_session, reclaim_complete, test_stateid, connects for each server
    counters: dict[str, list[int]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    #: servers that have said once that they know no SEEK: from then on this client answers it by itself
    no_seek: set[str] = field(default_factory=set)
    #: paths whose pages are all dirty or in use: none can be read past the page cache
    busy: set[str] = field(default_factory=set)

    def sessions(self, server: str) -> tuple[int, ...]:
        """What is counted when the state with a server is set up; empty before the first time."""
        return tuple(self.counters.get(server, ())[:4])

    def send(self, request: Request) -> None:
        self.pending.append(request)
        self.requests[request.server.name] = self.requests.get(request.server.name, 0) + 1
        self.sim.after(request.server.round_trip / 2, lambda: self.retry(request))

    def retry(self, request: Request) -> None:
        """One attempt; while the server cannot be reached, the next comes with ``wake``."""
        if request not in self.pending or self.asleep or self.dead:
            return
        server = request.server
        if not server.up or server.name in self.cut_from:
            return
        server.contact(self)
        if request.description is not None and request.description.lost:
            problem: str | None = "EIO"
        else:
            problem = request.serve()
        if problem is None:
            self.sim.after(0.5, lambda: self.retry(request))
            return
        self.pending.remove(request)
        reached = problem != "" and not (request.description is not None and request.description.lost)
        boot = server.epoch
        self.sim.after(server.round_trip / 2, lambda: self._arrived(request, problem, reached, boot))

    def _arrived(self, request: Request, problem: str, reached: bool, boot: int) -> None:
        """An answer that was on its way when the server went down is lost: the request is repeated."""
        if request.server.up and request.server.epoch == boot:
            self.answered(request, problem, reached)
        else:
            self.pending.append(request)
            self.sim.after(RECONNECT, lambda: self.retry(request))

    def answered(self, request: Request, problem: str, reached: bool) -> None:
        if self.dead:
            return
        if self.asleep:
            self.sim.after(0.05, lambda: self.answered(request, problem, reached))
            return
        request.done(problem, reached)

    def wake(self) -> None:
        """The server may be reachable again: repeat all that is pending."""
        for request in list(self.pending):
            self.sim.after(RECONNECT, lambda request=request: self.retry(request))  # type: ignore[misc]
        for server in {item.server.name: item.server for item in self.descriptions}.values():
            self.sim.after(RECONNECT, lambda server=server: self._renew(server))  # type: ignore[misc]

    def hold(self, description: Description) -> None:
        """From its first lock on, the kernel renews the lease by itself (fs/nfs/nfs4renewd.c)."""
        server = description.server
        known = any(item.server is server for item in self.descriptions)
        self.descriptions.append(description)
        if not known:
            self._renew_again(server)

    def _renew_again(self, server: Server) -> None:
        self._renew(server)
        if not self.dead and any(item.server is server for item in self.descriptions):
            self.sim.after(server.lease * 2 / 3, lambda: self._renew_again(server))

    def _renew(self, server: Server) -> None:
        if server.up and server.name not in self.cut_from and not self.asleep and not self.dead:
            server.contact(self)

    def cut_queue(self, server: Server) -> None:
        """``umount -f``: all queued requests of that mount are answered with EIO."""
        for request in [request for request in self.pending if request.server is server]:
            self.pending.remove(request)
            self.sim.after(0.001, lambda request=request: self.answered(request, "EIO", False))  # type: ignore[misc]

    def queued_writes(self, path: str) -> int:
        return sum(1 for item in self.pending if item.write and f"{item.server.name}:{item.file}" == path)

    def seek(self, description: Description, done: Callable[[str, bool], None]) -> None:
        """SEEK through a locked description; what the client answers by itself looks like a lock that stands."""
        server = description.server
        if server.name in self.no_seek:
            self.sim.after(0.001, lambda: done("", False))
            return
        if server.seek == "right" or description.lost:
            self.io(description, done)
            return

        def answered(problem: str, reached: bool) -> None:
            if problem == "ENOTSUPP":
                self.no_seek.add(server.name)
                problem = ""
            done(problem, reached)

        error = {"absent": "ENOTSUPP", "odd": "EINVAL"}[server.seek]
        self.send(Request(self, server, description.file, description, lambda: error, answered))

    def statfs(self, description: Description, done: Callable[[str, bool], None]) -> None:
        """A question about the file system, which carries no lock."""
        self.send(Request(self, description.server, description.file, None, lambda: "", done))

    def io(self, description: Description, done: Callable[[str, bool], None]) -> None:
        """I/O through a locked description, which the server must answer."""
        if description.lost:
            self.sim.after(0.001, lambda: done("EIO", False))
            return
        server = description.server
        self.send(Request(self, server, description.file, description, lambda: server.read(description.file), done))

    def close(self, description: Description) -> None:
        """The last copy is closed: the kernel forgets the lock, and with it what kept queued writes back."""
        if description in self.descriptions:
            self.descriptions.remove(description)
        for request in self.pending:
            if request.description is description:
                request.description = None


@dataclass(eq=False)
class Client:
    """What a server knows of a client."""

    kernel: Kernel
    seen: float


@dataclass(eq=False)
class Server:
    """An NFSv4 server."""

    sim: Sim
    name: str
    lease: float
    grace: float
    courteous: bool = True
    up: bool = True
    epoch: int = 1
    grace_until: float = -1.0
    round_trip: float = ROUND_TRIP
    #: how it answers SEEK: right, absent (not supported), odd (EINVAL)
    seek: str = "right"
    recovery_db: set[str] = field(default_factory=set)
    clients: dict[str, Client] = field(default_factory=dict)
    locks: dict[str, Description] = field(default_factory=dict)
    #: reclaims of these hosts are refused
    denied: set[str] = field(default_factory=set)
    #: files whose I/O the server answers with an error
    errors: dict[str, str] = field(default_factory=dict)
    #: locks taken away by the server's admin, of which the client does not know yet
    revoked: list[Description] = field(default_factory=list)
    #: accepted writes
    writes: int = 0
    #: the newest claim that has written to each file
    newest: dict[str, int] = field(default_factory=dict)

    @property
    def in_grace(self) -> bool:
        return self.sim.now < self.grace_until

    def down(self) -> None:
        self.up = False
        self.sim.say(self.name, "goes down")

    def boot(
        self,
        forgets: bool = False,
        grace: float | None = None,
        lease: float | None = None,
        older: tuple[str, ...] = (),
    ) -> None:
        """Come up again. ``older``: identities that an older recovery database still has."""
        self.epoch += 1
        self.recovery_db |= set(older)
        self.up = True
        self.clients.clear()
        self.locks.clear()
        if forgets:
            self.recovery_db.clear()
        self.lease = lease if lease is not None else self.lease
        length = self.grace if grace is None else grace
        self.grace_until = self.sim.now + length
        memory = "its recovery database is GONE" if forgets else f"grace {length:g} s"
        self.sim.say(self.name, f"is up again, lease {self.lease:g} s, {memory}")

    def contact(self, kernel: Kernel) -> None:
        """Any request arrives: the client recovers its state first if the server does not know it any more."""
        known = self.clients.get(kernel.identity)
        if known is not None and known.kernel is kernel and kernel.epochs.get(self.name) == self.epoch:
            if not self._expired(known):
                known.seen = self.sim.now
                self._tell_of_revoked(kernel)
                return
            self._drop(known)
        elif known is not None and known.kernel is not kernel:
            self.sim.say(self.name, f"{kernel.host} takes over the identity {kernel.identity} from {known.kernel.host}")
            self._drop(known)
        self._recover(kernel)

    def _tell_of_revoked(self, kernel: Kernel) -> None:
        for description in [item for item in self.revoked if item.kernel is kernel]:
            self.revoked.remove(description)
            description.lost = True
            kernel.counters[self.name][3] += 1

    def _expired(self, client: Client) -> bool:
        return not self.courteous and self.sim.now > client.seen + self.lease

    def _drop(self, client: Client) -> None:
        self.clients.pop(client.kernel.identity, None)
        self.recovery_db.discard(client.kernel.identity)  # a dutiful server; ``older`` is one whose database went back
        for file in [file for file, holder in self.locks.items() if holder.kernel is client.kernel]:
            del self.locks[file]

    def _recover(self, kernel: Kernel) -> None:
        before = kernel.epochs.get(self.name)
        counters = kernel.counters.setdefault(self.name, [0, 0, 0, 0, 0])
        for index in (0, 1, 2):
            counters[index] += 1
        mine = [item for item in kernel.descriptions if item.server is self and item.locked]
        reboot = before is not None and before != self.epoch
        counters[4] += reboot
        may = reboot and self.in_grace and kernel.identity in self.recovery_db and kernel.host not in self.denied
        for description in mine:
            if may and self.locks.get(description.file) is None:
                self.locks[description.file] = description
            else:
                description.lost = True
        if before is not None:
            count = sum(not item.lost for item in mine)
            self.sim.say(self.name, f"{kernel.host} sets its state up again: {count} of {len(mine)} locks stand")
        kernel.epochs[self.name] = self.epoch
        self.clients[kernel.identity] = Client(kernel, self.sim.now)
        self.recovery_db.add(kernel.identity)

    def lock(self, description: Description) -> str | None:
        """A LOCK request: EAGAIN when somebody else has it, None in the grace period."""
        if self.in_grace:
            return None
        holder = self.locks.get(description.file)
        if holder is not None and holder.kernel is not description.kernel:
            client = self.clients.get(holder.kernel.identity)
            if client is not None and client.kernel is holder.kernel and self.sim.now <= client.seen + self.lease:
                return "EAGAIN"
            if client is not None and client.kernel is holder.kernel:
                self.sim.say(self.name, f"expires {holder.kernel.host}: {description.kernel.host} wants its lock")
                self._drop(client)
        self.locks[description.file] = description
        description.locked, description.lost = True, False
        return ""

    def unlock(self, description: Description) -> str:
        if self.locks.get(description.file) is description:
            del self.locks[description.file]
        return ""

    def revoke_client(self, identity: str) -> None:
        client = self.clients.get(identity)
        if client is not None:
            self._drop(client)

    def revoke_lock(self, file: str) -> None:
        description = self.locks.pop(file, None)
        if description is not None:
            self.revoked.append(description)

    def read(self, file: str) -> str:
        return self.errors.get(file, "")

    def write(self, kernel: Kernel, file: str, vm: str, epoch: int = 0) -> str:
        """Accept a write. The promise: never one from a host while another one has the lock, and never one of an older
        claim once a newer one has written."""
        newest = self.newest[file] = max(epoch, self.newest.get(file, 0))
        if 0 < epoch < newest:
            text = (
                f"a write of {vm} on {kernel.host}, claim {epoch}, landed on {self.name}:{file} behind claim {newest}"
            )
            self.sim.violation("stale", text)
        holder = self.locks.get(file)
        if holder is not None and holder.kernel is not kernel:
            text = f"a write of {vm} on {kernel.host} landed on {self.name}:{file}, which {holder.kernel.host} holds"
            self.sim.violation("write", text)
        self.writes += 1
        return ""
