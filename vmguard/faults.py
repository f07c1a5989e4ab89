"""Fault points: places where a test kills a process with SIGKILL to see what it leaves behind.

``VMGUARD_FAULT=after-lock`` kills the process that reaches that point. ``VMGUARD_FAULT=parent:after-lock`` kills its
parent there and lets the process go on; ``both:after-lock`` kills first the parent, then the process. libvirt and
Proxmox start hooks with an environment of their own, so no fault point can be triggered from outside.
"""

from __future__ import annotations

import os

_SIGKILL = 9

#: points of a claim, in the order in which it passes them
CLAIM_POINTS = (
    "start",
    "connected",
    "forked",
    "asked",
    "planned",
    "opened",
    "first-lock",
    "all-locked",
    "windows-free",
    "held",
    "reported",
    "committed",
    "record",
)

#: points of the daemon in the life of a VM with one writable file, in their order
DAEMON_POINTS = (
    "accept-before-state",
    "accept-before-store",
    "accepted",
    "commit-before-state",
    "committed-by-daemon",
    "running-before-state",
    "running",
    "pin-copied",
    # after each lock call of the transfer: the upper half first, then the two parts of the lower half
    *(f"pin-{number}" for number in range(6)),
    "pin-done",
    "pinned-before-store",
    "pinned-before-state",
    "pinned",
    "ended",
    "drained",
    "release-before-unlock",
    "release-unlocked",
    "release-forgotten",
    "release-closed",
    "release-before-state",
    "released",
)

#: points of the daemon while it follows a running VM without image locks that reopens its file, opens another one and
#: closes that; each lock transfer passes ``pin-0`` and so on again
FOLLOW_POINTS = (
    *(f"pin-{number}" for number in range(6)),
    "found",
    "closed",
    "closed-before-state",
    "release-before-unlock",
    "release-unlocked",
    "release-forgotten",
    "release-closed",
)


def point(name: str) -> None:
    """Die here if the test that started this process asks for it."""
    wanted = os.environ.get("VMGUARD_FAULT")
    if wanted is None:
        return
    who, _, where = wanted.rpartition(":")
    if where != name:
        return
    if who in ("parent", "both"):
        os.kill(os.getppid(), _SIGKILL)
    if who in ("", "both"):
        os.kill(os.getpid(), _SIGKILL)
