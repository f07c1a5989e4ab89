"""The states of a guarded VM's claim, and the moves between them.

========== ==========================================================================================
OFFERED    a hook has sent locked descriptors, and has not confirmed its claim yet
CLAIMED    the claim is confirmed; the hypervisor is starting QEMU
INCOMING   QEMU's process is known, and waits for the VM's memory from the host that holds the locks
RUNNING    QEMU's process is known by its pidfd
CONFLICT   QEMU runs, but somebody else holds the lock of a file that it writes to; only a person ends this state
ENDED      QEMU is proven gone; a helper may still have a file open
RELEASING  nobody has the files open any more; the locks are being released. A restarted daemon does not know how
           far the earlier one got: it goes back to ENDED and collects all proof again
========== ==========================================================================================
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never

#: why a VM is guarded that the hypervisor started past the hook
WITHOUT_HOOK = "started without its hook"


class State(enum.StrEnum):
    """The state of a VM's claim on this host; see the table above."""

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

#: states in which QEMU is alive
LIVING = frozenset({State.INCOMING, State.RUNNING, State.CONFLICT})

SENTENCES: dict[State, str] = {
    State.OFFERED: "being claimed",
    State.CLAIMED: "claimed, QEMU is being started",
    State.INCOMING: "incoming, another host still holds its disks",
    State.RUNNING: "running",
    State.CONFLICT: "running, but somebody else holds the lock of one of its disks",
    State.ENDED: "QEMU is gone, a helper may still have the disks open",
    State.RELEASING: "being released",
}


def allowed(old: State, new: State) -> bool:
    """Return whether a claim may move from one state to the other."""
    return new in MOVES[old]


class ReleaseStep(enum.StrEnum):
    """The next step towards the release of a claim."""

    WAIT = "wait"
    DRAIN = "drain"
    RELEASE = "release"


@dataclass(frozen=True)
class ReleaseEvidence:
    """What is known about a VM without a running QEMU. Unknown never counts as gone."""

    #: the hook's process is alive
    claimant_alive: bool
    #: the start's deadline for a QEMU has passed, or the hypervisor reports that the start ended
    start_is_over: bool
    #: processes of this host, other than the daemon, that have one of the files open; None: not known
    users: tuple[str, ...] | None
    #: nothing that the VM wrote is still queued in the kernel; also true when there never was a QEMU
    drained: bool = True


def decide_release(state: State, evidence: ReleaseEvidence) -> tuple[ReleaseStep, str]:
    """Return what to do with the locks of a VM without a running QEMU, and why.

    Locks are released only on proof that nobody on this host has the files open or is about to open them.
    """
    match state:
        case State.OFFERED:
            if evidence.claimant_alive:
                return ReleaseStep.WAIT, "the hook is still running"
            why = "the hook ended without confirming its claim"
        case State.CLAIMED:
            if not evidence.start_is_over:
                return ReleaseStep.WAIT, "QEMU may still be started"
            why = "the start produced no QEMU, and nobody has the disks open"
        case State.INCOMING | State.RUNNING | State.CONFLICT:
            return ReleaseStep.WAIT, "QEMU runs"
        case State.ENDED | State.RELEASING:
            why = "QEMU is gone, nobody has the disks open, and nothing is queued"
        case _:
            assert_never(state)
    if evidence.users is None:
        return ReleaseStep.WAIT, "it is not known who has the disks open"
    if evidence.users:
        return ReleaseStep.WAIT, "still open in " + ", ".join(evidence.users)
    if not evidence.drained:
        return ReleaseStep.DRAIN, "QEMU is gone; its last writes may still be queued for the storage"
    return ReleaseStep.RELEASE, why
