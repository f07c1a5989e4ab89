"""Two hosts with the real machine, one server, one disk: every order of events, second by second.

It is as strict as the measured kernels, or stricter. A client's locks live on the server for one lease after its last
request, longer until somebody wants them; after a reboot they can be reclaimed in the grace period by clients in the
recovery database. A client recovers in two steps: it makes a session, which puts it into the database, and then looks
at its locks; a reboot between the two lets it reclaim what it has lost already. A write goes through the lock's own
description when the lock is pinned. Two steps of one host may be as far apart as anything else may come between, but a
daemon that lives reads its counters and carries out its orders within a second.

The promise, checked in each state: never two VMs run; no write of an older claim lands behind a newer one; and no VM is
killed whose lock nobody else had and the server gave back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

from tests.model.machines import Machines, Setup, Told

NOBODY = -1


class Session(IntEnum):
    """What a host's NFS client has with the server."""

    GOOD = 0
    #: the server dropped this client
    DROPPED = 1
    #: the server has rebooted
    REBOOTED = 2
    #: made anew; its locks are not looked at yet, and may be reclaimed
    MAY_RECLAIM = 3
    #: the same, and they may not
    MAY_NOT = 4


class Lock(IntEnum):
    NONE = 0
    HELD = 1
    LOST = 2


class Qemu(IntEnum):
    NONE = 0
    RUNS = 1
    FROZEN = 2
    DEAD = 3


class Host(NamedTuple):
    """One host: its daemon's machine, its NFS client, its VM."""

    machine: int
    cut: bool = False
    session: Session = Session.GOOD
    lock: Lock = Lock.NONE
    epoch: int = 0
    qemu: Qemu = Qemu.NONE
    #: orders of the machine that are not carried out yet, and whether they are a second old
    orders: tuple[str, ...] = ()
    aged: bool = False
    #: 0 no request on its way, 1 one, 2 one that reads the record, too
    asked: int = 0
    #: what the server answered it, not yet with the daemon
    answer: Told | None = None
    #: 1: the session counters have risen, 2: a second ago
    counted: int = 0
    #: a write of the guest is queued
    write: bool = False
    #: no daemon acts (stopped); for a control
    stopped: bool = False


class Server(NamedTuple):
    """The server, the record beside the disk, and what may still happen."""

    up: bool = True
    grace: int = 0
    holder: int = NOBODY
    #: the newest claim in the owner record
    newest: int = 0
    #: hosts in the recovery database, and those in it when the server booted
    database: int = 0
    reclaimers: int = 0
    #: seconds since the last request of the client that has the lock
    seen: int = 0
    cuts: int = 0
    reboots: int = 0
    starts: int = 0
    restarts: int = 0
    ends: int = 0
    stops: int = 0


class State(NamedTuple):
    server: Server
    hosts: tuple[Host, Host]


@dataclass(frozen=True)
class Rules:
    """What may happen, how often, and which protections there are."""

    setup: Setup = field(default_factory=Setup)
    cuts: int = 1
    reboots: int = 1
    starts: int = 1
    restarts: int = 0
    ends: int = 0
    #: whether all of that may happen to B, too
    both: bool = True
    #: how often a daemon may be stopped for good
    stops: int = 0
    grace: int = 3
    #: the admin may end the grace period by hand
    grace_by_hand: bool = False
    #: what comes back after a reboot: an older database, or none at all
    older: bool = False
    forgets: bool = False
    #: whether an answer may be on its way while other things happen
    slow_answers: bool = True
    #: whether orders to freeze reach the VM
    freezes: bool = True
    #: whether queued writes are followed
    writes: bool = False
    #: whether the server may reboot between a client's new session and its look at its locks
    torn_recovery: bool = True
    #: whether two running VMs are a violation; not where that is a stated limit, and only writes count
    runs: bool = True


class Violation(Exception):
    """The promise is broken."""


Step = tuple[str, State]


class World:
    """The rules, played: ``steps`` returns whatever may happen next."""

    def __init__(self, rules: Rules, machines: Machines | None = None) -> None:
        self.rules = rules
        self.machines = machines or Machines(rules.setup)
        self._confirmed: dict[int, float | None] = {}

    def first(self) -> State:
        """The VM has just been started on A, and B does not have it."""
        rules = self.rules
        budget = {name: getattr(rules, name) for name in ("cuts", "reboots", "starts", "restarts", "ends", "stops")}
        fresh = Host(self.machines.fresh)
        server = Server(database=0b11, **budget)
        a = self._tell(self._tell(fresh, ("counters", False)), ("start", 1))
        b = self._tell(fresh, ("counters", False))
        a = a._replace(lock=Lock.HELD, epoch=1, qemu=Qemu.RUNS)
        return State(server._replace(holder=0, newest=1), (a, b))

    def steps(self, state: State) -> Iterator[Step]:
        """Yield each thing that may happen next. Raises Violation and Broken."""
        yield from self._server_steps(state)
        for number in (0, 1):
            yield from self._host_steps(state, number)
        yield from self._second(state)

    # -- time and the server ----------------------------------------------------------------------------------------

    def _second(self, state: State) -> Iterator[Step]:
        """A second passes, unless somebody has to do something before."""
        if any(host.aged or host.counted == 2 for host in state.hosts if not host.stopped):
            return
        server = state.server
        seen = 0 if server.holder == NOBODY else min(server.seen + 1, self.rules.setup.lease + 1)
        grace = max(0, server.grace - server.up)
        server = server._replace(seen=seen, grace=grace, reclaimers=server.reclaimers if grace else 0)
        hosts = []
        for host in state.hosts:
            host = host._replace(aged=bool(host.orders), counted=2 * bool(host.counted))
            hosts.append(host if host.stopped else self._tell(host, ("tick",)))
        yield "a second passes", State(server, (hosts[0], hosts[1]))

    def _server_steps(self, state: State) -> Iterator[Step]:
        server, rules = state.server, self.rules
        if server.up and server.reboots:
            yield "the server goes down", State(server._replace(up=False, reboots=server.reboots - 1), state.hosts)
        if not server.up:
            grace = rules.grace + 1  # more than so many whole seconds
            if not (rules.older or rules.forgets):
                yield "the server boots", self._boot(state, server.database, grace)
            if rules.older:
                yield "the server boots with an older database", self._boot(state, 0b11, grace)
            if rules.forgets:
                yield "the server boots and has forgotten its clients", self._boot(state, 0, 0)
        if server.grace and rules.grace_by_hand:
            ended = server._replace(grace=0, reclaimers=0)
            yield "the admin ends the grace period", State(ended, state.hosts)

    def _boot(self, state: State, database: int, grace: int) -> State:
        server = state.server._replace(up=True, grace=grace, holder=NOBODY, seen=0)
        server = server._replace(database=database, reclaimers=database if grace else 0)
        a, b = (
            host._replace(session=Session.GOOD if host.lock is Lock.NONE else Session.REBOOTED) for host in state.hosts
        )
        return State(server, (a, b))

    # -- a host's client ----------------------------------------------------------------------------------------------

    def _host_steps(self, state: State, number: int) -> Iterator[Step]:
        host, server = state.hosts[number], state.server
        name = "AB"[number]
        if host.cut:
            yield f"{name}'s link heals", _with(state, number, host._replace(cut=False))
        elif server.cuts and (number == 0 or self.rules.both):
            changed = _with(state, number, host._replace(cut=True))
            yield f"{name} is cut off", changed._replace(server=server._replace(cuts=server.cuts - 1))
        if not host.cut and server.up:
            yield from self._client_steps(state, number, name)
        yield from self._daemon_steps(state, number, name)
        yield from self._vm_steps(state, number, name)

    def _client_steps(self, state: State, number: int, name: str) -> Iterator[Step]:
        host, server = state.hosts[number], state.server
        if host.session is Session.GOOD:
            if server.holder == number and server.seen:
                yield f"{name}'s client renews its lease", _seen(state, number)
            if host.asked and host.answer is None and host.lock is Lock.HELD:
                told: Told = ("answer", "", True, server.newest if host.asked == 2 else None)
                yield from self._answered(_seen(state, number), number, told, f"the server answers {name}'s probe")
            if host.write and not (host.lock is Lock.LOST and self.rules.setup.pinned):
                yield f"{name}'s queued write lands", self._land(state, number)
            if server.starts and host.qemu is Qemu.NONE and host.lock is Lock.NONE and not host.stopped:
                yield from self._claim(state, number, name)
        elif host.session in (Session.DROPPED, Session.REBOOTED):
            made = self._new_session(state, number)
            if not self.rules.torn_recovery:
                made = self._recover(made, number)
            yield f"{name}'s client makes a new session", made
        else:
            yield f"{name}'s client looks at its lock", self._recover(state, number)

    def _new_session(self, state: State, number: int) -> State:
        host, server = state.hosts[number], state.server
        may = host.session is Session.REBOOTED and server.grace > 0 and server.reclaimers >> number & 1
        session = Session.MAY_RECLAIM if may else Session.MAY_NOT
        server = server._replace(database=server.database | 1 << number)
        host = host._replace(session=session, counted=max(host.counted, 1))
        return _seen(_with(State(server, state.hosts), number, host), number)

    def _recover(self, state: State, number: int) -> State:
        host, server = state.hosts[number], state.server
        if host.session is Session.MAY_RECLAIM and server.grace and server.holder == NOBODY:
            server = server._replace(holder=number)  # also a lock that is lost: the client does not look at that
        else:
            host = host._replace(lock=Lock.LOST)
        return _seen(_with(State(server, state.hosts), number, host._replace(session=Session.GOOD)), number)

    def _claim(self, state: State, number: int, name: str) -> Iterator[Step]:
        """A start elsewhere: the lock is granted when nobody has it, or its owner's lease is over."""
        server, hosts = state.server, list(state.hosts)
        holder = server.holder
        if server.grace or holder == number:
            return
        if holder != NOBODY:
            if server.seen <= self.rules.setup.lease:
                return
            server = server._replace(database=server.database & ~(1 << holder))
            hosts[holder] = hosts[holder]._replace(session=Session.DROPPED)
        epoch = server.newest + 1
        database = server.database | 1 << number
        server = server._replace(holder=number, newest=epoch, starts=server.starts - 1, database=database)
        host = self._tell(hosts[number], ("start", epoch))
        hosts[number] = host._replace(lock=Lock.HELD, epoch=epoch, qemu=Qemu.RUNS)
        yield f"{name} starts the VM: claim {epoch}", _seen(State(server, (hosts[0], hosts[1])), number)

    def _land(self, state: State, number: int) -> State:
        host, server = state.hosts[number], state.server
        if host.epoch < server.newest:
            raise Violation(f"a write of claim {host.epoch} on {'AB'[number]} lands behind claim {server.newest}")
        return _seen(_with(state, number, host._replace(write=False)), number)

    # -- its daemon -------------------------------------------------------------------------------------------------

    def _daemon_steps(self, state: State, number: int, name: str) -> Iterator[Step]:
        host, server = state.hosts[number], state.server
        if host.stopped:
            return
        if server.stops and host.qemu is Qemu.RUNS:
            changed = _with(state, number, host._replace(stopped=True))
            yield f"{name}'s daemon is stopped", changed._replace(server=server._replace(stops=server.stops - 1))
        if host.counted:
            told = self._tell(host._replace(counted=0), ("counters", True))
            yield f"{name}'s daemon reads its counters", _with(state, number, told)
        if host.asked and host.answer is None and host.lock is Lock.LOST:
            yield from self._answered(state, number, ("answer", "EIO", False, None), f"{name}'s probe fails with EIO")
        if host.answer is not None:
            told = self._tell(host._replace(asked=0, answer=None), host.answer)
            yield f"{name}'s daemon gets its answer", _with(state, number, told)
        if host.orders:
            yield from self._carry_out(state, number, name)
        if server.restarts and host.qemu is not Qemu.NONE and (number == 0 or self.rules.both):
            changed = _with(state, number, self._restart(host))
            yield (
                f"{name}'s daemon dies, and a new one starts",
                changed._replace(server=server._replace(restarts=server.restarts - 1)),
            )

    def _answered(self, state: State, number: int, told: Told, what: str) -> Iterator[Step]:
        host = state.hosts[number]
        if self.rules.slow_answers:
            yield f"{what} (on its way)", _with(state, number, host._replace(answer=told))
        else:
            yield what, _with(state, number, self._tell(host._replace(asked=0), told))

    def _carry_out(self, state: State, number: int, name: str) -> Iterator[Step]:
        host = state.hosts[number]
        order, rest = host.orders[0], host.orders[1:]
        host = host._replace(orders=rest, aged=host.aged and bool(rest))
        if order == "fence":
            yield f"{name}'s VM is killed", _with(state, number, host._replace(qemu=Qemu.DEAD, orders=(), aged=False))
            return
        if host.qemu in (Qemu.RUNS, Qemu.FROZEN) and (order == "thaw" or self.rules.freezes):
            host = host._replace(qemu=Qemu.FROZEN if order == "freeze" else Qemu.RUNS)
        host = self._tell(host, ("acted", order))
        yield f"{name}'s VM {'stands still' if order == 'freeze' else 'goes on'}", _with(state, number, host)

    def _restart(self, host: Host) -> Host:
        age = self._confirmed_at(host.machine)
        frozen, fencing = host.qemu is Qemu.FROZEN, "fence" in host.orders or host.qemu is Qemu.DEAD
        host = host._replace(orders=(), aged=False, asked=0, answer=None, counted=0)
        host = self._tell(host, ("restart", host.epoch, frozen, fencing, age))
        host = self._tell(host, ("counters", False))
        return host._replace(aged=bool(host.orders))  # the second in which it must act is the dead one's

    def _confirmed_at(self, machine: int) -> float | None:
        if machine not in self._confirmed:
            self._confirmed[machine] = self.machines.confirmed(machine)
        return self._confirmed[machine]

    def _tell(self, host: Host, told: Told) -> Host:
        if host.stopped:
            return host
        move = self.machines.tell(host.machine, told)
        orders = host.orders
        for order in move.orders:
            orders = orders if orders and orders[-1] == order else (*orders, order)
        asked = move.asked or (host.asked if self.machines.is_waiting(move.state) else 0)
        return host._replace(machine=move.state, orders=orders, asked=asked)

    # -- its VM -----------------------------------------------------------------------------------------------------

    def _vm_steps(self, state: State, number: int, name: str) -> Iterator[Step]:
        host, server = state.hosts[number], state.server
        if host.qemu is Qemu.RUNS and not host.write and self.rules.writes:
            yield f"{name}'s guest writes", _with(state, number, host._replace(write=True))
        if host.write and host.lock is Lock.LOST and self.rules.setup.pinned:
            yield f"{name}'s queued write fails with EIO", _with(state, number, host._replace(write=False))
        if host.qemu is Qemu.RUNS and server.ends:
            changed = _with(state, number, host._replace(qemu=Qemu.DEAD))
            yield f"{name}'s guest shuts down", changed._replace(server=server._replace(ends=server.ends - 1))
        reaches = not host.cut and server.up and host.session is Session.GOOD
        if host.qemu is Qemu.DEAD and not host.write and (reaches or host.lock is Lock.LOST):
            mine = server.holder == number and host.lock is Lock.HELD
            server = server._replace(holder=NOBODY) if mine else server
            gone = Host(host.machine, host.cut)
            yield f"{name}'s lock is released", _with(State(server, state.hosts), number, self._tell(gone, ("gone",)))

    def check(self, state: State) -> None:
        """Raises Violation when two VMs run."""
        a, b = state.hosts
        if self.rules.runs and a.qemu is Qemu.RUNS and b.qemu is Qemu.RUNS:
            raise Violation("the VM runs on A and on B")


def without(rules: Rules, **setup: object) -> Rules:
    """Return the rules with another setup of the machine."""
    return replace(rules, setup=replace(rules.setup, **setup))  # type: ignore[arg-type]


def _with(state: State, number: int, host: Host) -> State:
    a, b = state.hosts
    return State(state.server, (host, b) if number == 0 else (a, host))


def _seen(state: State, number: int) -> State:
    return State(state.server._replace(seen=0), state.hosts) if state.server.holder == number else state
