"""Asks locks through their own descriptions, in threads that may hang: a few for each mount.

While a server is away its threads hang, and with them nothing but the questions about its own locks. Every question is
answered exactly once, however late.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from vmguard.adapters import clock, probe
from vmguard.core.watch_events import Answer, Ask
from vmguard.daemon.loop import Loop

#: threads for each mount: 500 locks of one mount are asked in well under two seconds
_THREADS = 8

Answered = Callable[[Answer], None]


class _Question:
    __slots__ = ("ask", "fd", "mount", "seek")

    def __init__(self, ask: Ask, mount: str, fd: int, seek: bool) -> None:
        self.ask = ask
        self.mount = mount
        self.fd = fd
        self.seek = seek


class Prober:
    """The threads of all mounts."""

    def __init__(self, loop: Loop, answered: Answered) -> None:
        self._loop = loop
        self._answered = answered
        self._queues: dict[str, queue.SimpleQueue[_Question]] = {}

    def ask(self, ask: Ask, mount: str, fd: int, seek: bool) -> None:
        """Ask one lock, through a descriptor that is this question's own: it is closed with the answer."""
        waiting = self._queues.get(mount)
        if waiting is None:
            waiting = self._queues[mount] = queue.SimpleQueue()
            for number in range(_THREADS):
                name = f"prober {number} {mount}"
                threading.Thread(target=self._run, args=(waiting,), name=name, daemon=True).start()
        waiting.put(_Question(ask, mount, fd, seek))

    def refuse(self, ask: Ask, mount: str, problem: str) -> None:
        """Answer a question that cannot be asked."""
        now = clock.boottime()
        answer = Answer(now, mount, ask.lock, ask.serial, now, problem)
        self._loop.call_from_thread(lambda: self._answered(answer))

    def _run(self, waiting: queue.SimpleQueue[_Question]) -> None:
        while True:
            question = waiting.get()
            sent = clock.boottime()
            problem, from_server = probe.ask_twice(question.fd, question.seek, question.mount)
            now = clock.boottime()
            ask = question.ask
            answer = Answer(now, question.mount, ask.lock, ask.serial, sent, problem, from_server)
            os.close(question.fd)
            self._loop.call_from_thread(lambda answer=answer: self._answered(answer))  # type: ignore[misc]
