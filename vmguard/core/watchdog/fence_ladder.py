"""The fence ladder: end a VM so that not even a queued write of it can reach the storage. Pure.

Killing is not enough: after a partition heals, the kernel re-sends a dead process's queued write, over the new owner's
data. What stops that write is the lost lock on the very description of the write, as long as a copy of the description
stays open. So the copy is taken first and closed last.

======== ==================================== =================================== ==================================
rung     action                               proof                               when its deadline passes
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

Not chosen: SIGTERM, or the hypervisor's own "destroy" first. QEMU would flush, over the new owner's data.

Only the pidfd proves death. A process in state D has the signal but is not dead yet: its threads may still be
submitting a write. State Z in /proc/PID/stat is no proof either: only the first thread has ended, others may run. The
kernel makes the pidfd readable when the last thread has passed exit_files() (kernel/exit.c, do_exit before
exit_notify): nothing can be submitted any more. Whether the parent has reaped the process does not matter.

CUT hurts every VM of that mount (``umount -f`` answers all its queued requests with EIO), so it is taken only for a VM
that is not shielded (a file of it is not pinned, or could not be copied), and only when no other VM of the mount still
waits for its verdict; at once when there is no other.

RELEASE must come before the next storage reboot: a lost lock that is still open would be reclaimed then, and rob the
rightful owner. It never comes before death and drainage are proven: until then the copy is the shield.

The ladder has no memory: ``next_rung`` sees evidence only. So when a daemon was killed on any rung, the next one
continues where the evidence says. The caller only keeps the time at which each rung was first reached.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.core.watchdog.policy import AfterFence, HostFence, Policy
from vmguard.core.watchdog.timing import Rungs


class Life(enum.StrEnum):
    """The state of a process, as far as it can be proven."""

    RUNNING = "running"
    #: state D: it is not dead, whatever signals are pending
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
    #: the kernel accepted SIGKILL for it
    killed: bool = False


class Others(enum.StrEnum):
    """The other VMs on the VM's mounts (``Watch.others``), which a cut would hurt."""

    NONE = "none"
    #: each has its verdict
    JUDGED = "judged"
    #: one still waits for its verdict
    WAITING = "waiting"


@dataclass(frozen=True)
class FenceEvidence:
    """All evidence about one VM. Each field is read anew for each decision, never remembered.

    Unknown counts as no: a flag is set only by its proof.
    """

    processes: tuple[FencedProcess, ...]
    #: each file that it writes is locked on the very description that writes
    pinned: bool
    #: we hold a copy of each description that carries such a lock, or there is none
    copied: bool
    #: no request of its files is queued in the kernel
    drained: bool
    others: Others
    #: its descriptions are unlocked and closed
    released: bool
    #: the hypervisor says that the VM is off
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
    """A step of the ladder; see the table above."""

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
    """What happens when a rung's deadline passes without its proof. In each case the rung is retried."""

    #: alarm, and take the next rung
    GO_ON = "go on"
    ALARM = "alarm"
    #: alarm, then the host's watchdog if the admin chose it
    HOST_FENCE = "host fence"


@dataclass(frozen=True)
class Spec:
    """One row of the table above. ``doing`` and ``missing`` are for people."""

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


#: in the order in which the rungs are taken
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
    """The rung to take now, and what else to do."""

    rung: Rung
    #: the deadline has passed: raise an alarm (once) and retry
    alarm: bool
    #: let the host's watchdog fire now
    host_fence: bool
    #: CUT may be taken now; False: it must wait for other VMs' verdicts
    may_cut: bool
    #: for people: what is being done, or what is missing
    sentence: str

    @property
    def done(self) -> bool:
        return self.rung is Rung.DONE


def next_rung(seen: FenceEvidence, since: dict[Rung, float], now: float, spans: Rungs, policy: Policy) -> Next:
    """Return the rung to take now.

    ``since`` is the time (s) at which each rung was first reached; this function adds a rung when it first returns it.
    ``since`` may be lost (a restart): the deadlines then begin anew, and nothing else changes.
    """
    passed_over: list[str] = []
    for rung, spec in LADDER.items():
        if spec.proven(seen) or _skipped(rung, seen, policy):
            continue
        if rung is Rung.DRAIN and not seen.shielded and seen.others is Others.NONE:
            continue  # a cut hurts no other VM: cut before the server answers again and accepts what is queued
        overdue = now >= since.setdefault(rung, now) + spec.deadline(spans)
        if overdue and (spec.late is Late.GO_ON or (rung is Rung.DRAIN and not seen.shielded)):
            if rung is not Rung.DRAIN:  # CUT reports it
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
