"""Read the arguments of processes in threads, because such a read may never come back (adapters/linux/may_block.py).

The loop requests a read, continues, and is called back with the answer. A read that hangs keeps its thread. The process
stays unknown and is not read a second time meanwhile; the answer comes once its memory's lock is free again.

The threads are few, so reads that hang must not block other ones: there is a lane for each kind of reason. A user may
well start a hundred programs that are called qemu and hang; none of them gets into a hypervisor's pid file, or is
root's. And within a lane nobody gets more than half of the threads: a guest that has broken out runs as the same user
as all others.

Not chosen: a child that reads and is killed when it hangs. It would cost an interpreter for each new process of this
host that may be QEMU, and the daemon must be able to look when there is no memory for another process.
"""

from __future__ import annotations

import enum
import functools
import logging
import queue
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from vmguard.adapters.linux import may_block, proc
from vmguard.adapters.linux.proc import CommandLine
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.runtime")

#: a read that takes longer counts as hanging
HANGS_S = 1.0
_THREADS_PER_LANE = 8
_THREADS_PER_OWNER = 4
#: before a thread that could not be started is retried
_RETRY_S = 0.5

Told = Callable[[CommandLine | None], None]


class Lane(enum.StrEnum):
    """Why the arguments of a process are read."""

    #: a hypervisor's own pid file names it
    NAMED = "named"
    #: its program or its short name says so, and it is root's, or runs as QEMU's user
    TRUSTED = "trusted"
    #: it is an interpreter of theirs
    TRUSTED_POSSIBLE = "trusted possible"
    #: its program or its short name says so
    LIKELY = "likely"
    #: it is an interpreter
    POSSIBLE = "possible"


_TRUSTED = frozenset({Lane.NAMED, Lane.TRUSTED, Lane.TRUSTED_POSSIBLE})
#: lane, pid and start: a process that hangs in one lane does not keep its place in another one
_Key = tuple[Lane, int, int]


class _Read:
    __slots__ = ("asked", "began", "key", "listeners", "owner")

    def __init__(self, key: _Key, owner: str, asked: float) -> None:
        self.key = key
        self.owner = owner
        self.asked = asked
        #: when a thread began with it
        self.began: float | None = None
        self.listeners: list[Told] = []


class CommandLines:
    """The reads under way; for the loop's thread only."""

    def __init__(
        self,
        loop: Loop,
        read: Callable[[int, bool], CommandLine | None] = may_block.command_line,
        started: Callable[[int], int] = proc.started,
    ) -> None:
        """``read`` is called in a thread and may hang; it is told whether its lane keeps strangers out. ``started``
        tells one process from the next with its pid.
        """
        self._loop = loop
        self._read = read
        self._started = started
        self._reads: dict[_Key, _Read] = {}
        self._queues: dict[Lane, queue.SimpleQueue[_Read]] = {lane: queue.SimpleQueue() for lane in Lane}
        #: reads that are not in their lane's queue yet, because their owner has its share of the threads
        self._held_back: defaultdict[tuple[Lane, str], deque[_Read]] = defaultdict(deque)
        #: reads in the queue, or under way, by owner
        self._waiting: dict[Lane, Counter[str]] = {lane: Counter() for lane in Lane}
        self._threads = dict.fromkeys(Lane, 0)
        #: when the latest answer came
        self._progress = dict.fromkeys(Lane, 0.0)

    def ask(self, lane: Lane, pid: int, told: Told, owner: str = "") -> None:
        """Have ``told`` called once, from the loop, with what a process runs now; with None if it is gone.

        A process that is being read already in that lane is not read again: the answer is the older one. ``owner``:
        who can start more processes of this kind; empty: whoever is trusted with it.
        """
        key = (lane, pid, self._started(pid))
        if not key[2]:
            self._loop.call_in(0.0, functools.partial(told, None))
            return
        known = self._reads.get(key)
        if known is not None:
            known.listeners.append(told)
            return
        read = self._reads[key] = _Read(key, owner, self._loop.now())
        read.listeners.append(told)
        self._held_back[lane, owner].append(read)
        self._let_in(lane, owner)

    def is_asked(self, lane: Lane, pid: int) -> bool:
        """Return whether a read of the process that has this pid now is under way."""
        return (lane, pid, self._started(pid)) in self._reads

    def hangs(self, lane: Lane, pid: int) -> bool:
        """Return whether the read of that process hangs."""
        read = self._reads.get((lane, pid, self._started(pid)))
        if read is None:
            return False
        # One that has not begun hangs with those before it, not because there are many.
        since = max(read.asked, self._progress[lane]) if read.began is None else read.began
        return self._loop.now() - since > HANGS_S

    def _let_in(self, lane: Lane, owner: str) -> None:
        """Queue an owner's reads, as far as it has not its share of the threads yet."""
        waiting, held_back = self._waiting[lane], self._held_back[lane, owner]
        while held_back and (not owner or waiting[owner] < _THREADS_PER_OWNER):
            waiting[owner] += 1
            self._queues[lane].put(held_back.popleft())
        if not held_back:
            del self._held_back[lane, owner]
        self._start_threads(lane)

    def _start_threads(self, lane: Lane) -> None:
        while self._threads[lane] < min(self._waiting[lane].total(), _THREADS_PER_LANE):
            try:
                threading.Thread(target=self._run, args=(lane,), name=f"vmguard arguments {lane}", daemon=True).start()
            except (RuntimeError, MemoryError) as problem:
                log.error("the arguments of processes cannot be read: %s", problem)
                self._loop.call_in(_RETRY_S, functools.partial(self._start_threads, lane))
                return
            self._threads[lane] += 1

    def _run(self, lane: Lane) -> None:
        waiting = self._queues[lane]
        while True:
            read = waiting.get()
            read.began = self._loop.now()
            answer: CommandLine | None = None
            try:
                answer = self._read(read.key[1], lane in _TRUSTED)
            except Exception:
                log.exception("the arguments of pid %d cannot be read; please report it as a bug", read.key[1])
            self._loop.call_from_thread(functools.partial(self._answered, lane, read, answer))

    def _answered(self, lane: Lane, read: _Read, answer: CommandLine | None) -> None:
        self._progress[lane] = self._loop.now()
        self._waiting[lane] -= Counter([read.owner])
        del self._reads[read.key]
        self._let_in(lane, read.owner)
        if answer is not None and answer.started != read.key[2]:
            answer = None  # another process has its pid by now
        for told in read.listeners:  # each on its own: a failure of one affects no other
            self._loop.call_in(0.0, functools.partial(told, answer))
