"""The health of one mount's lease and of every lock on it: pure, driven from outside, in any time.

========== ==============================================================================================
IDLE       no lock here needs watching
HEALTHY    a request sent less than a third of the lease ago was answered
LATE       none was; every lock still stands. Asked more often
AT_RISK    the lease could end before every VM stands still: nobody here may run
EXPIRED    another host may own the locks; courteous servers wait longer, so nothing is lost yet
RECOVERING the server answers again, in its grace period or after; every lock is being asked. VMs thaw one by one
========== ==============================================================================================

Doubt: a lock is in doubt from an event that may have cost it until it was asked AFTER that event and answered. Asked
means I/O through the very description that is locked, the one honest test on the same mount (fs/nfs/nfs4proc.c,
nfs4_select_rw_stateid); success also proves that the server honours the lease. EIO must come twice, the second asked
after the first: ``umount -f`` of an admin answers requests in flight with EIO, too. An error that the server itself
sent (a broken disk there: NFS4ERR_IO) is no loss. Any answer of the server renews the lease, whatever its errno. A lock
about which nothing can be asked (a page in use, a server that does not understand) is not in doubt because of that, and
one in doubt stays so.

The token: a server whose recovery database went back in time gives a lost lock out again, and every probe says kept
(RFC 8881, 8.4.3, names the edge). So after anything that may have cost a lock (a new session, a lease that may have
ended, a lock lost in the kernel's log) an answer counts only with the epoch of the disk's owner record: a newer one
than the claim's own means that somebody else had the disk since, and the lock is LOST. The epoch can only take away. A
record that is gone takes nothing away, and is reported; one that cannot be read leaves the lock in doubt.
"""

from __future__ import annotations

import math
from collections import deque

from vmguard.core.watchdog.events import (
    Answer,
    Ask,
    Counters,
    Effect,
    Hint,
    HintKind,
    Level,
    LockId,
    LockInfo,
    Probe,
    Relock,
    Report,
)
from vmguard.core.watchdog.policy import Stake
from vmguard.core.watchdog.states import ALIVE, DANGER, LEVELS, MOVES, SILENT, STOLEN_SESSIONS, Lock, Phase, Sessions
from vmguard.core.watchdog.timing import Timeline, silence_words

#: routine requests on their way at the same time: each hangs in a thread of its own while the server is away
IN_FLIGHT = 4


class MountLease:
    """The lease of one mount. ``touched`` collects the VMs whose case has to be looked at again."""

    def __init__(self, name: str, timeline: Timeline, now: float, confirmed: float | None = None) -> None:
        self.name = name
        self.timeline = timeline
        self.now = now
        self.phase = Phase.IDLE
        self.confirmed = -math.inf if confirmed is None else min(confirmed, now)
        self.locks: dict[LockId, Lock] = {}
        #: the locks in doubt
        self.unsure: dict[LockId, Lock] = {}
        self.waiting: set[LockId] = set()
        self.touched: set[str] = set()
        self.next_probe = now
        #: when the locks in doubt are looked at again
        self._look_at = math.inf
        #: how its locks are probed, as the latest answer told: ``SEEK``, ``READ (the server has no SEEK)``
        self.probes = ""
        self._sessions = Sessions()
        #: ``confirmed`` counts as it is, however old
        self._past_is_known = confirmed is not None
        self._taken_over = now if confirmed is not None else -math.inf  # from an earlier daemon
        self._order: deque[LockId] = deque()
        self._serial = 0
        self._asks: list[Ask] = []
        self._reports: list[Effect] = []

    # -- what happens -----------------------------------------------------------------------------------------------

    def clock(self, now: float) -> None:
        """Time has passed: phases, overdue doubts, questions that are due."""
        self.now = now
        if self.phase is Phase.IDLE:
            return
        self._move_on()
        if now >= self._look_at:
            self._look_at_the_unsure()
        self._ask_one_of_all()

    def answer(self, event: Answer) -> None:
        lock = self.locks.get(event.lock)
        if lock is not None and lock.serial != event.serial:
            lock = None
        if lock is not None:
            self.waiting.discard(event.lock)
        if event.reached or (event.asked and not event.problem):
            self.confirmed = max(self.confirmed, min(event.sent, self.now))
            self._move_on()
        self._tell_kind(event.kind)
        if lock is None or lock.lost:
            return
        if not event.asked:
            self._not_asked(lock, event.problem)
        elif not event.problem:
            self._answered(lock, event)
        elif event.problem == "EIO" and not event.reached:
            self._refused(lock, event.sent)
        else:
            origin = " from the server" if event.reached else ""
            self._doubt(lock, f"asked, the answer was {event.problem}{origin}")
        self._move_on()
        if event.asked and not event.problem and (not self._reachable or event.sent < (lock.doubt or -math.inf)):
            self._ask(lock)  # it was sent too long ago to prove anything about now

    def counters(self, event: Counters) -> None:
        was_stolen = self.stolen
        sessions, checks = self._sessions.compare(event, self.now, self.timeline.lease, self.phase in SILENT)
        what = "the client had to set up its state with the server again"
        if sessions:
            self._report(Level.INFO, "mount.new-session", f"{self.name}: {what}; asking every lock")
        if sessions or checks:
            self.doubt_all(what, token=True)
        if self.stolen and not was_stolen:
            self._report(
                Level.ERROR,
                "mount.identity-stolen",
                f"{self.name}: the client's session was torn down {STOLEN_SESSIONS} times within three leases, as when"
                " another host with the same NFS identity (host name) uses this server; no lock here is safe",
            )

    def hint(self, event: Hint) -> None:
        lock = self.locks.get(event.lock) if event.lock is not None else None
        if lock is not None:
            self._doubt(lock, event.text)
            self._ask(lock)
        else:
            self.doubt_all(event.text, token=event.kind is HintKind.KERNEL_LOG)

    def doubt_all(self, why: str, but: Lock | None = None, token: bool = False) -> None:
        """Probe every lock here, because something may have lost them all; ``token``: to another host."""
        for lock in self.locks.values():
            if lock is not but:
                self._doubt(lock, why, token)
        self._look_at_the_unsure()

    def retime(self, timeline: Timeline) -> None:
        """The server's lease time has changed."""
        self.timeline = timeline
        self.next_probe = self.now

    # -- locks come and go ------------------------------------------------------------------------------------------

    def put(self, info: LockInfo, unjudged: bool = False) -> None:
        """A lock is new, or another description carries it now; ``unjudged``: a fresh lease may hide an outage."""
        old = self.locks.get(info.id)
        if old is not None and (old.info.through, old.info.mount) == (info.through, info.mount):
            old.info = info
            return
        self._serial += 1
        lock = self.locks[info.id] = Lock(info, self._serial)
        self.waiting.discard(info.id)
        self.unsure.pop(info.id, None)
        if old is None:
            self._order.append(info.id)
        if info.granted is not None:
            lock.kept_at = min(info.granted, self.now)
            self.confirmed = max(self.confirmed, lock.kept_at)
        if self.phase is Phase.IDLE:
            self._begin()
        if info.granted is None or self.phase not in ALIVE:
            self._doubt(lock, "not asked yet", info.granted is None and (unjudged or self.phase not in ALIVE))
        self.clock(self.now)

    def drop(self, lock_id: LockId) -> None:
        if self.locks.pop(lock_id, None) is None:
            return
        self._order.remove(lock_id)
        self.unsure.pop(lock_id, None)
        self.waiting.discard(lock_id)
        self._move_on()

    # -- questions to it --------------------------------------------------------------------------------------------

    @property
    def stolen(self) -> bool:
        """Whether another host seems to use this host's identity."""
        return self._sessions.stolen

    @property
    def age(self) -> float:
        return self.now - self.confirmed

    def due(self) -> float:
        """When ``clock`` is needed next."""
        if self.phase is Phase.IDLE:
            return math.inf
        line = self.timeline
        ages = {Phase.HEALTHY: line.late, Phase.LATE: line.freeze, Phase.AT_RISK: line.expiry}
        times = [self.confirmed + ages.get(self.phase, line.freeze) if self.phase is not Phase.EXPIRED else math.inf]
        if len(self.waiting) < min(IN_FLIGHT, len(self.locks)):
            times.append(self.next_probe)
        return min([*times, self._look_at] if self.unsure else times)

    def take_reports(self) -> list[Effect]:
        reports, self._reports = self._reports, []
        return reports

    def take_questions(self) -> list[Effect]:
        asks, self._asks = tuple(self._asks), []
        return [Probe(self.name, asks)] if asks else []

    # -- the parts --------------------------------------------------------------------------------------------------

    @property
    def _reachable(self) -> bool:
        return self.phase in (Phase.HEALTHY, Phase.RECOVERING)

    def _begin(self) -> None:
        """From IDLE: an unknown past counts as one that leaves the time of one verdict until the freeze."""
        if not self._past_is_known:
            self.confirmed = max(self.confirmed, self.now - self.timeline.freeze + self.timeline.verdict)
        self._past_is_known = False
        self.next_probe = max(self.now, self.confirmed + self.timeline.probe)
        self._transition(self._by_age())

    def _by_age(self) -> Phase:
        line, now, confirmed = self.timeline, self.now, self.confirmed
        if now >= confirmed + line.freeze:
            return Phase.EXPIRED if now >= confirmed + line.expiry else Phase.AT_RISK
        return Phase.LATE if now >= confirmed + line.late else Phase.HEALTHY

    def _target(self) -> Phase:
        by_age = self._by_age()
        if all(lock.lost for lock in self.locks.values()):
            return Phase.IDLE
        if self.phase in DANGER:
            if by_age is Phase.HEALTHY:
                return Phase.RECOVERING
            return Phase.EXPIRED if by_age is Phase.EXPIRED else self.phase
        if self.phase is Phase.RECOVERING and by_age not in DANGER:
            return Phase.RECOVERING if self.unsure else Phase.HEALTHY
        return by_age

    def _move_on(self) -> None:
        target = self._target()
        if self.phase is not Phase.IDLE and target is not self.phase:
            self._transition(target)

    def _transition(self, new: Phase) -> None:
        """The only writer of ``phase``. Raises ValueError when MOVES does not allow it."""
        old = self.phase
        if new not in MOVES[old]:
            raise ValueError(f"{self.name} cannot go from {old} to {new}")
        self.phase = new
        self._sessions.silent |= new in SILENT
        self.next_probe = min(self.next_probe, self.now + self.timeline.urgent)
        if Phase.IDLE not in (old, new):
            self._report(LEVELS.get(new, Level.INFO), f"mount.{new}", f"{self.name}: {old} => {new}: {self._why(new)}")
        if new in DANGER or new is Phase.RECOVERING or old is Phase.LATE:
            self.doubt_all(f"the mount was {old}", token=old is Phase.EXPIRED)
        self.touched.update(lock_id.vm for lock_id in self.locks)

    def _why(self, phase: Phase) -> str:
        line = self.timeline
        silence = silence_words(self.confirmed, self._taken_over, self.now)
        lost = sum(lock.lost for lock in self.locks.values())
        return {
            Phase.LATE: f"{silence}; freeze in {line.freeze - self.age:.1f} s",
            Phase.AT_RISK: f"{silence}; the lease may end in {line.expiry - self.age:.1f} s",
            Phase.EXPIRED: f"{silence}, more than the lease of {line.lease:g} s: another host may get the locks",
            Phase.RECOVERING: f"the server answers again; asking {len(self.locks) - lost} locks",
        }.get(phase, f"{len(self.locks) - lost} locks stand, {lost} lost")

    def _doubt(self, lock: Lock, why: str, token: bool = False) -> None:
        if lock.lost:
            return
        if token and lock.info.epoch is not None:
            lock.token_due = self.now
        if lock.doubt is None:
            lock.since, lock.overdue = self.now, False
        lock.doubt, lock.evidence = self.now, why
        self.unsure[lock.info.id] = lock
        self._look_at = min(self._look_at, self.now + self.timeline.urgent)
        self.touched.add(lock.info.id.vm)

    def _answered(self, lock: Lock, event: Answer) -> None:
        """Take in a probe that the server answered well, and what the owner record says where that counts."""
        if lock.token_due is None:
            self._kept(lock, event.sent)
            return
        token, ours = event.token, lock.info.epoch
        if token is None or ours is None or event.sent < lock.token_due:
            self._ask(lock)  # it was sent before the record had to be read, too
            return
        if token.problem:
            lock.evidence = f"it answers, but its owner record cannot be read ({token.problem})"
            return  # still in doubt: probed again at the usual pace
        if token.epoch is not None and token.epoch > ours:
            who = f" by {token.owner}" if token.owner else ""
            self._lose(lock, f"claimed since{who}: epoch {token.epoch}, ours is {ours}")
            return
        lock.token_due = None
        if token.epoch != ours:
            found = "is gone" if token.epoch is None else f"went back to epoch {token.epoch}, ours is {ours}"
            text = f"{lock.info.path}: its owner record {found}; whether another host had the disk cannot be told by it"
            self._report(Level.WARNING, "lock.no-token", text, lock)
        self._kept(lock, event.sent)

    def _kept(self, lock: Lock, sent: float) -> None:
        if lock.doubt is None or sent >= lock.doubt:
            lock.kept_at, lock.doubt, lock.suspect, lock.overdue, lock.blind = sent, None, None, False, False
            lock.evidence = "answered through its own descriptor"
            if self.unsure.pop(lock.info.id, None) is not None:
                self.touched.add(lock.info.id.vm)

    def _not_asked(self, lock: Lock, why: str) -> None:
        """Take in that nothing could be asked: a lock in doubt stays so, another one is not in doubt because of it."""
        lock.evidence = f"it cannot be probed now: {why}"
        if not lock.blind and self.now >= lock.kept_at + self.timeline.slow_round:
            lock.blind = True
            self._report(Level.WARNING, "lock.not-probed", f"{lock.info.path}: {lock.evidence}", lock)

    def _tell_kind(self, kind: str) -> None:
        """Remember how the locks here are probed; report it when it is not SEEK, and when it changes."""
        if not kind or kind == self.probes:
            return
        if self.probes or kind != "SEEK":
            self._report(Level.INFO, "mount.probe-kind", f"{self.name}: locks are probed by {kind}")
        self.probes = kind

    def _refused(self, lock: Lock, sent: float) -> None:
        if lock.suspect is None or sent < lock.suspect:
            lock.suspect = self.now if lock.suspect is None else lock.suspect
            self._doubt(lock, "EIO through its own descriptor, once")
            self._ask(lock)
            self.doubt_all("EIO on another lock of this mount", lock)
            return
        self._lose(lock, "EIO through its own descriptor, twice")

    def _lose(self, lock: Lock, evidence: str) -> None:
        lock.lost, lock.doubt, lock.evidence = True, None, evidence
        self.unsure.pop(lock.info.id, None)
        self.touched.add(lock.info.id.vm)
        spare = lock.info.stake is Stake.SPARE
        more = "; the VM goes on, nobody's data depend on it; locking it again" if spare else ""
        lost = f"{lock.info.path}: the lock is LOST on {self.name}: {evidence}{more}"
        self._report(Level.WARNING if spare else Level.ERROR, "lock.lost", lost, lock)
        self._reports += [Relock(lock.info.id.vm, lock.info.id.key)] if spare else []

    def _ask(self, lock: Lock) -> None:
        if lock.lost or lock.info.id in self.waiting:
            return
        lock.last_ask = self.now
        self.waiting.add(lock.info.id)
        self._asks.append(Ask(lock.info.id, lock.serial, lock.token_due is not None))

    def _look_at_the_unsure(self) -> None:
        """Ask those that are due, mark those that are overdue. One scan each ``urgent``, however many they are."""
        line, now = self.timeline, self.now
        self._look_at = now + line.urgent
        for lock in self.unsure.values():
            if not lock.overdue and now >= lock.since + line.verdict:
                lock.overdue = True
                self.touched.add(lock.info.id.vm)
            elif not lock.overdue:
                self._look_at = min(self._look_at, lock.since + line.verdict)
            again = line.urgent * (2 if lock.overdue else 1)
            # While the server is silent they would all hang; the routine probe finds out when it is worth while.
            if self._reachable and (now >= lock.last_ask + again or (lock.doubt or 0.0) > lock.last_ask):
                self._ask(lock)

    def _ask_one_of_all(self) -> None:
        """The routine probe: each time through another lock, so that every lock is asked once in a slow round."""
        if self.now < self.next_probe or len(self.waiting) >= IN_FLIGHT:
            return
        line = self.timeline
        calm = self.phase is Phase.HEALTHY
        self.next_probe = self.now + (line.probe if calm else line.urgent)
        wanted = math.ceil(len(self.locks) * line.probe / line.slow_round) if calm else 1
        for _ in range(len(self._order)):
            lock = self.locks[self._order[0]]
            self._order.rotate(-1)
            if not lock.lost and lock.info.id not in self.waiting:
                self._ask(lock)
                wanted -= 1
            if wanted <= 0:
                return

    def _report(self, level: Level, code: str, sentence: str, lock: Lock | None = None) -> None:
        fields = {"mount": self.name, "phase": str(self.phase), "age": f"{self.age:.1f}"}
        if lock is not None:
            fields |= {"disk": lock.info.path, "vm": lock.info.id.vm, "verdict": str(lock.verdict)}
            fields["evidence"] = lock.evidence
        self._reports.append(Report(level, code, sentence, fields))
