"""What a reboot of a storage server would do to each VM, and when. Pure.

Seconds count from the moment at which the server stops answering. What is not certain is a span: the last request
before it was answered up to one probe interval earlier, and a client may be between two tries to connect when the
server is back (its pause doubles up to half a lease, at most 60 s; xs_tcp_set_socket_timeouts, xprt_set_reconnect).
"""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.core.servers.facts import Times
from vmguard.core.watchdog.timing import Timeline

#: the longest pause between two tries to connect (XS_TCP_MAX_REEST_TO is higher, NFSv4 caps it by the lease)
_LONGEST_PAUSE_S = 60.0
#: a try to connect that has just begun when the server is back
_SHORTEST_PAUSE_S = 3.0

NOT, MAYBE, YES = "no", "perhaps", "yes"


@dataclass(frozen=True)
class Outlook:
    """One mount in one reboot of its server. ``frozen``: whether its VMs are."""

    down: float
    frozen: str
    #: between which seconds the freeze is; also when it does not come to that
    freeze_from: float
    freeze_until: float
    #: between which seconds the verdict on each lock is
    verdict_from: float
    verdict_until: float
    #: the server must be back before this second for no VM to be frozen
    back_by: float
    #: when a start on another host, or a new VM, gets its lock at the latest; None: the server's grace is not known
    new_locks_at: float | None
    #: whether each client is back before the grace period can end; None: not known
    in_time: bool | None


def reconnect(lease: float) -> float:
    """Return how long after the server is back a client has reached it, at the latest."""
    return max(_SHORTEST_PAUSE_S, min(_LONGEST_PAUSE_S, lease / 2))


def of_reboot(line: Timeline, times: Times, down: float) -> Outlook:
    """Return what happens if the server is away for ``down`` seconds and remembers its clients."""
    first, last = line.freeze - line.probe, line.freeze + line.slack
    back = reconnect(line.lease)
    frozen = NOT if down + back < first else YES if down >= last else MAYBE
    starts = times.new_locks_after
    return Outlook(
        down=down,
        frozen=frozen,
        freeze_from=first,
        freeze_until=last,
        verdict_from=down,
        verdict_until=down + back + line.verdict,
        back_by=first,
        new_locks_at=down + starts if starts is not None else None,
        in_time=None if times.grace is None else back < times.grace,
    )


def claim_wait(lease: float, times: Times, margin: float) -> float:
    """Return for how many seconds a dead host's lock can stand in a claim's way: its lease, and a reboot's grace."""
    starts = times.new_locks_after
    return (times.lease or lease) + (starts if starts is not None else lease) + margin
