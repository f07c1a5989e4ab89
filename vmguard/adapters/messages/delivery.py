"""Send what waits for a target, as one message, if it is time.

An attempt is written down before it begins: one whose process is ended has failed (``Queue.give_up``). Whoever sends
holds the queue's lock, so a daemon's job and ``vmguard notify watch`` never send the same message at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vmguard.adapters.linux import clock, host_identity
from vmguard.adapters.messages import sending
from vmguard.adapters.messages.queue import Queue, State, failed
from vmguard.core.notices import message as messages
from vmguard.errors import VmguardError


def deliver(queue: Queue, wanted: Mapping[str, Any], host: str, send: Callable[..., str] = sending.send) -> None:
    """Send what waits, if it is time. Raises BlockingIOError when another process does, OSError without a queue."""
    with queue.locked():
        _deliver(queue, wanted, host, send)


def _deliver(queue: Queue, wanted: Mapping[str, Any], host: str, send: Callable[..., str]) -> None:
    state, now = queue.state(), clock.boottime()
    if not queue.waiting() or state.pace.due(now) > now:
        return
    names, events = queue.entries(only=state.sending)
    if not events:  # they were cut short by a power failure
        queue.remove(names)
        return
    dropped = queue.opened().dropped
    message = messages.compose(events, host, max(0, dropped - state.dropped_told))
    begun = replace(
        state,
        pace=state.pace.tried(now),
        boot=host_identity.boot_id(),
        sending=tuple(names),
        tried=clock.wall(),
        under_way=True,
    )
    queue.save(begun)
    found = _outcome(begun, lambda: send(message, wanted), dropped)
    if not found.problem:
        queue.remove(names)
    queue.save(found)


def _outcome(begun: State, attempt: Callable[[], str], dropped: int) -> State:
    """Make the attempt; return what is known behind it."""
    try:
        answer = attempt()
    except VmguardError as problem:
        hint = f" ({problem.hint})" if problem.hint else ""
        return failed(begun, f"{problem.message}{hint}")
    except Exception as problem:  # of a library; what it says may hold a secret
        return failed(begun, f"unexpected {type(problem).__name__}")
    return replace(
        begun,
        pace=begun.pace.delivered(clock.boottime()),
        sending=(),
        under_way=False,
        problem="",
        answer=answer,
        delivered=clock.wall(),
        failing_since="",
        messages=begun.messages + 1,
        dropped_told=dropped,
    )
