"""Probe locks through their own descriptions, in threads that may hang: a few for each mount.

While a server is away, its threads hang, and only the probes of its own locks wait. Every probe is answered exactly
once, however late.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable

from vmguard.adapters.linux import ofd
from vmguard.adapters.storage.fencing_token import read_token
from vmguard.adapters.storage.lock_probe import MountProbe
from vmguard.core.watchdog.events import Answer, Ask
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.watch")

#: before a thread that could not be started is retried
_RETRY_S = 0.5
#: enough to probe 500 locks of one mount in well under two seconds
_THREADS_PER_MOUNT = 8

Answered = Callable[[Answer], None]


class _Question:
    __slots__ = ("ask", "fd", "how", "mount", "record")

    def __init__(self, ask: Ask, mount: str, fd: int, how: MountProbe, record: str) -> None:
        self.ask = ask
        self.mount = mount
        self.fd = fd
        self.how = how
        self.record = record


class ProbeThreads:
    """The threads of all mounts."""

    def __init__(self, loop: Loop, answered: Answered) -> None:
        self._loop = loop
        self._answered = answered
        self._queues: dict[str, queue.SimpleQueue[_Question]] = {}
        self._threads: dict[str, int] = {}
        #: how the locks of each mount are probed: SEEK, or READ where the server has no SEEK
        self._probes: dict[str, MountProbe] = {}

    def ask(self, ask: Ask, mount: str, fd: int, seek: bool, record: str = "") -> None:
        """Probe one lock through a descriptor of the probe's own, which is closed with the answer.

        ``seek``: the mount is NFSv4.2. ``record``: path of its owner record, whose epoch is read, too, once the server
        has honoured the lock.
        """
        waiting = self._queues.setdefault(mount, queue.SimpleQueue())
        how = self._probes.setdefault(mount, MountProbe(mount, seek))
        how.set_version(seek)
        waiting.put(_Question(ask, mount, fd, how, record))
        self._start_threads(mount)

    def _start_threads(self, mount: str) -> None:
        """Start the missing threads. Without memory for one the probe waits, which counts as a silent server."""
        for number in range(self._threads.get(mount, 0), _THREADS_PER_MOUNT):
            name = f"vmguard probe {number} {mount}"
            try:
                threading.Thread(target=self._run, args=(self._queues[mount],), name=name, daemon=True).start()
            except (RuntimeError, MemoryError) as problem:
                log.error("%s cannot be asked at full speed: %s", mount, problem)
                self._loop.call_in(_RETRY_S, functools.partial(self._start_threads, mount))
                return
            self._threads[mount] = number + 1

    def refuse(self, ask: Ask, mount: str, problem: str) -> None:
        """Answer a probe that cannot be sent."""
        now = self._loop.now()
        answer = Answer(now, mount, ask.lock, ask.serial, now, problem)
        self._loop.call_from_thread(functools.partial(self._answered, answer))

    def _run(self, waiting: queue.SimpleQueue[_Question]) -> None:
        while True:
            question = waiting.get()
            sent = self._loop.now()
            problem, reached, asked = question.how.probe(question.fd)
            token = read_token(question.record) if question.record and asked and not problem else None
            now, ask, kind = self._loop.now(), question.ask, question.how.kind
            answer = Answer(now, question.mount, ask.lock, ask.serial, sent, problem, reached, asked, kind, token)
            ofd.close(question.fd)
            self._loop.call_from_thread(functools.partial(self._answered, answer))
