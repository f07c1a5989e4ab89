"""What waits for a target, on this host's own disk: it outlives the daemon and the host's boot.

Each target has a folder. ``N.json``: events that were told together, oldest first. ``opened.json``, which the daemon
writes, or who stands in for it while it is down: the incidents that are open there, and what was dropped.
``state.json``, which only the holder of the folder's lock (flock) writes, who sends. A message that is on its way is
written down before the attempt, so that a second attempt is the same message with the same id.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from vmguard.adapters.linux import atomic_file, host_identity, statefile
from vmguard.core.notices.event import Event
from vmguard.core.notices.pace import Pace
from vmguard.core.words import in_utf8

#: entries, and bytes of all of them, beyond which the oldest are dropped
MAX_ENTRIES = 500
MAX_BYTES = 4 << 20
#: characters of a server's answer that are kept
MAX_ANSWER = 300
_DIGITS = 12
_STATE, _OPENED = "state.json", "opened.json"


@dataclass(frozen=True)
class Opened:
    """What the daemon knows of a target. ``dropped``: events, since the queue was made."""

    incidents: tuple[str, ...] = ()
    dropped: int = 0


@dataclass(frozen=True)
class State:
    """What became of the attempts so far. Times: UTC, ISO; empty: never."""

    pace: Pace = field(default_factory=Pace)
    boot: str = ""
    #: entries of the message that is on its way
    sending: tuple[str, ...] = ()
    #: why the last attempt failed; empty when it did not
    problem: str = ""
    #: what was answered when a message was last taken
    answer: str = ""
    tried: str = ""
    #: an attempt has begun, and nothing is known of its end
    under_way: bool = False
    delivered: str = ""
    #: since when every attempt fails
    failing_since: str = ""
    messages: int = 0
    #: dropped events that the receiver was told of
    dropped_told: int = 0


def failed(state: State, problem: str) -> State:
    """Return what is known behind an attempt that failed."""
    since = state.failing_since or state.tried
    return replace(state, under_way=False, problem=problem[:MAX_ANSWER], failing_since=since)


class Queue:
    """The queue of one target below a folder that is the daemon's alone."""

    def __init__(self, folder: str, target: str, limit: tuple[int, int] = (MAX_ENTRIES, MAX_BYTES)) -> None:
        self._root = folder
        self._folder = os.path.join(folder, target)
        self._limit = limit

    # -- the daemon -------------------------------------------------------------------------------------------------

    def add(self, events: Sequence[Event], incidents: tuple[str, ...]) -> int:
        """Append an entry, and remember what is open at the target now; return how many events were dropped for it.

        Raises OSError: nothing is remembered then.
        """
        atomic_file.own_folder(self._root)
        atomic_file.own_folder(self._folder)
        names = self._names()
        dropped = self._make_room(names)
        number = int(names[-1].partition(".")[0]) + 1 if names else 1
        value = in_utf8([event.as_json() for event in events])
        statefile.write(os.path.join(self._folder, f"{number:0{_DIGITS}}.json"), {"events": value})
        known = self.opened()
        if (incidents, dropped) != (known.incidents, 0):
            kept = {"incidents": list(in_utf8(incidents)), "dropped": known.dropped + dropped}
            statefile.write(os.path.join(self._folder, _OPENED), kept)
        return dropped

    def opened(self) -> Opened:
        """Return what is open at the target; nothing if that cannot be read."""
        value = statefile.read(os.path.join(self._folder, _OPENED)) or {}
        try:
            return Opened(tuple(map(str, value.get("incidents", []))), int(value.get("dropped", 0)))
        except (TypeError, ValueError):
            return Opened()

    def _make_room(self, names: Sequence[str]) -> int:
        """Remove the oldest entries beyond the limit; return how many events they held."""
        entries, size = self._limit
        sizes = [self._size(name) for name in names]
        total, dropped = sum(sizes), 0
        for number, name in enumerate(names):
            if len(names) - number < entries and total < size:
                break
            dropped += len(self._read(name))
            self.remove([name])
            total -= sizes[number]
        return dropped

    def _size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self._folder, name)).st_size
        except OSError:
            return 0

    # -- whoever sends ----------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Any:
        """Be the only one who sends to this target, for a ``with`` block. Raises BlockingIOError when another does."""
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(fd)

    def entries(self, only: Iterable[str] = ()) -> tuple[list[str], list[Event]]:
        """Return the names of the entries and their events, oldest first; of ``only`` some, where they are there."""
        names = self._names()
        wanted = [name for name in only if name in names] or names
        return wanted, [event for name in wanted for event in self._read(name)]

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))

    def save(self, state: State) -> None:
        """Raises OSError."""
        statefile.write(os.path.join(self._folder, _STATE), asdict(state))

    def give_up(self, seconds: float) -> None:
        """Write down that an attempt has failed whose process was ended, ``seconds`` after it began.

        Raises BlockingIOError while it goes on, OSError without a queue.
        """
        with self.locked():
            state = self.state()
            if state.under_way:
                self.save(failed(state, f"it did not answer within {seconds:g} s"))

    # -- everybody --------------------------------------------------------------------------------------------------

    def waiting(self) -> int:
        """Return how many entries wait."""
        return len(self._names())

    def state(self) -> State:
        """Return what became of the attempts; times of an earlier boot say nothing any more."""
        value = statefile.read(os.path.join(self._folder, _STATE)) or {}
        try:
            known = {item.name: value[item.name] for item in fields(State) if item.name in value}
            known["pace"] = Pace(**known.get("pace", {}))
            known["sending"] = tuple(map(str, known.get("sending", ())))
            state = State(**known)
        except (TypeError, ValueError, AttributeError):
            return State()
        if state.boot == host_identity.boot_id():
            return state
        return State(**{**known, "pace": state.pace.after_reboot(), "boot": host_identity.boot_id()})

    def _names(self) -> list[str]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return sorted(name for name in names if name.endswith(".json") and name[:_DIGITS].isdecimal())

    def _read(self, name: str) -> list[Event]:
        """Return the events of an entry; one that was cut short holds none."""
        value = statefile.read(os.path.join(self._folder, name)) or {}
        found = []
        for item in value.get("events") or []:
            with suppress(ValueError):
                found.append(Event.from_json(item))
        return found
