"""The life of a guarded VM's claim, as a table: which states there are, and which may follow which.

========== ==========================================================================================
OFFERED    locked descriptors have come from a hook that has not yet said that its claim stands
CLAIMED    the claim stands; the hypervisor is starting QEMU
INCOMING   QEMU's process is known, and waits for the VM's memory from the host that has the locks
RUNNING    QEMU's process is known by its pidfd
CONFLICT   it runs, but somebody else has the lock of a file that it writes to; only a person ends this state
ENDED      QEMU is proven gone; whether a helper still has a file open is being asked
RELEASING  nobody has the files open any more: the locks are being let go. A daemon that comes after one that ended
           meanwhile does not know how far that one came: it goes back to ENDED, and asks for all the proof again
========== ==========================================================================================
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.StrEnum):
    OFFERED = "offered"
    CLAIMED = "claimed"
    INCOMING = "incoming"
    RUNNING = "running"
    CONFLICT = "conflict"
    ENDED = "ended"
    RELEASING = "releasing"


MOVES: dict[State, frozenset[State]] = {
    State.OFFERED: frozenset({State.CLAIMED, State.RELEASING}),
    State.CLAIMED: frozenset({State.INCOMING, State.RUNNING, State.ENDED, State.RELEASING}),
    State.INCOMING: frozenset({State.RUNNING, State.ENDED}),
    State.RUNNING: frozenset({State.CONFLICT, State.ENDED}),
    State.CONFLICT: frozenset({State.RUNNING, State.ENDED}),
    State.ENDED: frozenset({State.INCOMING, State.RUNNING, State.RELEASING}),
    State.RELEASING: frozenset({State.ENDED}),
}

#: QEMU lives
LIVING = frozenset({State.INCOMING, State.RUNNING, State.CONFLICT})

SENTENCES: dict[State, str] = {
    State.OFFERED: "being claimed",
    State.CLAIMED: "claimed, QEMU is being started",
    State.INCOMING: "incoming, another host still has its disks",
    State.RUNNING: "running",
    State.CONFLICT: "running, but somebody else has the lock of one of its disks",
    State.ENDED: "QEMU is gone, a helper may still have the disks open",
    State.RELEASING: "being released",
}


def allowed(old: State, new: State) -> bool:
    return new in MOVES[old]


class Action(enum.StrEnum):
    """What to do about a claim now."""

    WAIT = "wait"
    DRAIN = "drain"
    RELEASE = "release"


@dataclass(frozen=True)
class Evidence:
    """What is known about a VM that has no living QEMU. Unknown is never read as gone: ``users`` is None then."""

    #: the hook's process still lives
    claimant_alive: bool
    #: the time within which a start must have produced a QEMU is over, or the hypervisor said that it ended
    start_is_over: bool
    #: processes of this host that have one of the files open, the daemon's own descriptors not counted
    users: tuple[str, ...] | None
    #: nothing that the VM wrote is still queued in the kernel; always so when there never was a QEMU
    drained: bool = True


def decide(state: State, evidence: Evidence) -> tuple[Action, str]:
    """What to do with the locks of a VM without a living QEMU, and why.

    A lock is only ever released on proof: nobody on this host has the file open, and nobody is about to.
    """
    if state is State.OFFERED:
        if evidence.claimant_alive:
            return Action.WAIT, "the hook is still at work"
    elif state is State.CLAIMED and not evidence.start_is_over:
        return Action.WAIT, "QEMU may still come"
    elif state in LIVING:
        return Action.WAIT, "QEMU runs"
    if evidence.users is None:
        return Action.WAIT, "it is not known who has the disks open"
    if evidence.users:
        return Action.WAIT, "still open in " + ", ".join(evidence.users)
    if not evidence.drained:
        return Action.DRAIN, "QEMU is gone; its last writes may still be under way to the storage"
    return Action.RELEASE, {
        State.OFFERED: "the hook ended without saying that its claim stands",
        State.CLAIMED: "the start produced no QEMU, and nobody has the disks open",
    }.get(state, "QEMU is gone, nobody has the disks open, and nothing is queued")
