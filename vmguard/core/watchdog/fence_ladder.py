"""The fence ladder: how a VM is ended so that not even a queued write of it can reach the storage. Pure data.

Killing is not enough: the kernel sends a dead process's queued write again after a partition heals, over the new
owner's data. What stops it is the lost lock on the very description of the write, as long as a copy of that
description stays open; so the copy comes first and is given up last.

======== ==================================== =================================== ==================================
rung     what is done                         proof that is needed                when its deadline passes
======== ==================================== =================================== ==================================
COPY     take a copy of each description      we hold one of each, or there is    alarm, go on without: killing
         that carries a lock                  none left to take                   must not wait
KILL     SIGKILL by pidfd, QEMU and helpers   the kernel took the signal          alarm, host fence
DEATH    wait                                 every pidfd is readable             alarm, host fence
DRAIN    wait                                 no request of these files is        shielded: alarm, host fence;
                                              queued any more                     else: CUT
CUT      cut the mount's queue by force       no request is queued                alarm, host fence
RELEASE  unlock and close                     the descriptions are closed         alarm
CLEAN_UP tell the hypervisor                  it says that the VM is off          alarm, go on
AFTER    start it again, or leave it off      the start was ordered               alarm, go on
======== ==================================== =================================== ==================================

Never SIGTERM and never the hypervisor's own "destroy" first: QEMU would flush, over the new owner's data.

Dead is what its pidfd says. A process in state D has the signal, but not yet died: its threads may still be submitting
a write. State Z in /proc/PID/stat is not enough either: only the first thread has ended, others may run. The kernel
makes the pidfd readable when the last thread has gone through exit_files() (kernel/exit.c, do_exit before
exit_notify): nothing can be submitted any more. Whether the parent has reaped it does not matter.

CUT hurts every VM of that mount (``umount -f`` answers all its queued requests with EIO), so it is taken only for a VM
that is not shielded (a file of it is not pinned, or could not be copied), and only when no other VM of the mount still
waits for its verdict; at once when there is no other.

RELEASE comes before the next storage reboot can: a lost lock that is left open would be reclaimed then, and rob the
rightful owner. It never comes before death and drainage are proven: until then the copy is the shield.

There is no memory in here: ``next_rung`` sees evidence only, so a daemon that was killed on any rung, and the one that
comes after it, begin where the evidence says. What the caller keeps is since when it stands on the rung.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.core.watchdog.events import AfterFence, HostFence, Policy
from vmguard.core.watchdog.timing import Rungs


class Life(enum.StrEnum):
    """A process, as far as can be proven."""

    RUNNING = "running"
    #: state D: it has not died, whatever signals it has
    BLOCKED = "blocked"
    #: the first thread has ended, others may run
    LEADER_GONE = "leader-gone"
    #: its pidfd is readable
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class FencedProcess:
    """QEMU or one of its helpers (swtpm, qemu-storage-daemon)."""

    name: str
    pid: int
    life: Life
    #: SIGKILL was taken by the kernel
    killed: bool = False


class Others(enum.StrEnum):
    """The other VMs of its mounts (``Watch.others``)."""

    NONE = "none"
    #: each has its verdict
    JUDGED = "judged"
    #: one still waits for its verdict
    WAITING = "waiting"


@dataclass(frozen=True)
class FenceEvidence:
    """All that counts. Each field is looked up anew for each question, never remembered.

    Unknown counts as no: a flag is set only by its proof.
    """

    processes: tuple[FencedProcess, ...]
    #: every file of it is locked on the description that writes
    pinned: bool
    #: we hold a copy of each description that carries such a lock, or there is none
    copied: bool
    #: no request of its files is queued in the kernel
    drained: bool
    #: whom a cut would hurt
    others: Others
    #: its descriptions are unlocked and closed
    released: bool
    #: the hypervisor says that it is off
    cleaned: bool
    #: ``after_fence`` was carried out
    followed: bool

    @property
    def dead(self) -> bool:
        return all(process.life is Life.DEAD for process in self.processes)

    @property
    def shielded(self) -> bool:
        """Once a lock is lost, everything queued ends as EIO: we hold a copy of each description that writes."""
        return self.pinned and self.copied


class Rung(enum.StrEnum):
    COPY = "copy"
    KILL = "kill"
    DEATH = "death"
    DRAIN = "drain"
    CUT = "cut"
    RELEASE = "release"
    CLEAN_UP = "clean-up"
    AFTER = "after"
    DONE = "done"


class Late(enum.StrEnum):
    """What happens when a rung's deadline passes without its proof. The rung is tried on in each case."""

    GO_ON = "go on"
    ALARM = "alarm"
    #: alarm, then the host's watchdog if the admin chose it
    HOST_FENCE = "host fence"


@dataclass(frozen=True)
class Spec:
    """One row of the table above."""

    proven: Callable[[FenceEvidence], bool]
    deadline: Callable[[Rungs], float]
    late: Late
    doing: str
    missing: Callable[[FenceEvidence], str]


def _still_there(evidence: FenceEvidence) -> str:
    alive = [process for process in evidence.processes if process.life is not Life.DEAD]
    return ", ".join(f"{process.name} (pid {process.pid}) is {_LIVES[process.life]}" for process in alive)


_LIVES = {
    Life.RUNNING: "still running",
    Life.BLOCKED: "killed, but blocked in the kernel (state D) and not dead",
    Life.LEADER_GONE: "ending, some of its threads still run",
    Life.UNKNOWN: "in an unknown state",
}


def _queued(_: FenceEvidence) -> str:
    return "requests of its files are still queued in the kernel"


def _cut(evidence: FenceEvidence) -> str:
    if evidence.others is Others.WAITING:
        return _queued(evidence) + ", and cutting them off would hurt VMs that still wait for their verdict"
    return _queued(evidence)


#: in the order of the climb
LADDER: dict[Rung, Spec] = {
    Rung.COPY: Spec(
        proven=lambda seen: seen.copied or seen.dead,
        deadline=lambda spans: spans.copy,
        late=Late.GO_ON,
        doing="taking a copy of the descriptors that carry its locks",
        missing=lambda _: "the descriptors that carry its locks could not be copied: its queued writes can land",
    ),
    Rung.KILL: Spec(
        proven=lambda seen: all(process.killed or process.life is Life.DEAD for process in seen.processes),
        deadline=lambda spans: spans.kill,
        late=Late.HOST_FENCE,
        doing="killing QEMU and its helpers (SIGKILL)",
        missing=lambda seen: "SIGKILL was not taken: " + _still_there(seen),
    ),
    Rung.DEATH: Spec(
        proven=lambda seen: seen.dead,
        deadline=lambda spans: spans.death,
        late=Late.HOST_FENCE,
        doing="waiting for the proof of death",
        missing=_still_there,
    ),
    Rung.DRAIN: Spec(
        proven=lambda seen: seen.drained,
        deadline=lambda spans: spans.drain,
        late=Late.HOST_FENCE,
        doing="waiting until no request of its files is queued",
        missing=_queued,
    ),
    Rung.CUT: Spec(
        proven=lambda seen: seen.drained,
        deadline=lambda spans: spans.cut,
        late=Late.HOST_FENCE,
        doing="cutting off the mount's queued requests by force",
        missing=_cut,
    ),
    Rung.RELEASE: Spec(
        proven=lambda seen: seen.released,
        deadline=lambda spans: spans.release,
        late=Late.ALARM,
        doing="unlocking and closing its descriptors",
        missing=lambda _: "its descriptors are not closed: a storage reboot could bring lost locks back",
    ),
    Rung.CLEAN_UP: Spec(
        proven=lambda seen: seen.cleaned,
        deadline=lambda spans: spans.clean_up,
        late=Late.GO_ON,
        doing="telling the hypervisor",
        missing=lambda _: "the hypervisor does not confirm that it is off",
    ),
    Rung.AFTER: Spec(
        proven=lambda seen: seen.followed,
        deadline=lambda spans: spans.clean_up,
        late=Late.GO_ON,
        doing="carrying out after_fence",
        missing=lambda _: "it could not be started again",
    ),
}


@dataclass(frozen=True)
class Next:
    """Where the climb stands and what to do now."""

    rung: Rung
    #: the deadline has passed: raise an alarm (once), go on trying
    alarm: bool
    #: let the host's watchdog fire now
    host_fence: bool
    #: may CUT be taken? False: only waited for
    may_cut: bool
    #: for people: what is being done, or what is missing
    sentence: str

    @property
    def done(self) -> bool:
        return self.rung is Rung.DONE


def next_rung(seen: FenceEvidence, since: dict[Rung, float], now: float, spans: Rungs, policy: Policy) -> Next:
    """The rung to stand on now.

    ``since`` says when each rung was first stood on; this function enters a rung in it when it first names it. It may
    be lost (a restart): deadlines then begin again, nothing else changes.
    """
    passed_over: list[str] = []
    for rung, spec in LADDER.items():
        if spec.proven(seen) or _skipped(rung, seen, policy):
            continue
        if rung is Rung.DRAIN and not seen.shielded and seen.others is Others.NONE:
            continue  # nobody else is hurt: cut before the server answers again and takes what is queued
        overdue = now >= since.setdefault(rung, now) + spec.deadline(spans)
        if overdue and (spec.late is Late.GO_ON or (rung is Rung.DRAIN and not seen.shielded)):
            if rung is not Rung.DRAIN:  # CUT says it
                passed_over.append(spec.missing(seen))
            continue
        blocked = rung is Rung.CUT and seen.others is Others.WAITING
        sentence = spec.missing(seen) if overdue or blocked else spec.doing
        return Next(
            rung=rung,
            alarm=overdue or blocked or bool(passed_over),
            host_fence=overdue and spec.late is Late.HOST_FENCE and policy.host_fence is HostFence.WATCHDOG,
            may_cut=rung is Rung.CUT and seen.others is not Others.WAITING,
            sentence="; ".join([*passed_over, sentence]),
        )
    return Next(Rung.DONE, bool(passed_over), False, False, "; ".join([*passed_over, "the fence is complete"]))


def _skipped(rung: Rung, seen: FenceEvidence, policy: Policy) -> bool:
    if rung is Rung.CUT:
        return seen.shielded
    return rung is Rung.AFTER and policy.after_fence is AfterFence.OFF
