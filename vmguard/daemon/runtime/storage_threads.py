"""Threads that may hang: one for each file system, because every call on NFS, even close(), can wait without end.

The loop hands a job over and is called back when it is done. A storage that does not answer keeps its own thread and
its own queue waiting, and nobody else's.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.workers")


#: seconds after which a thread that could not be started is tried again
_AGAIN = 0.5
#: in place of a device's number: work on /proc that is too long for the loop
THIS_HOST = -1


class _Job:
    __slots__ = ("done", "name", "work")

    def __init__(self, name: str, work: Callable[[], object], done: Callable[[object], None]) -> None:
        self.name = name
        self.work = work
        self.done = done


class StorageThread:
    """One thread and its queue."""

    def __init__(self, loop: Loop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._busy: tuple[str, float] | None = None
        threading.Thread(target=self._run, name=f"worker {name}", daemon=True).start()

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def busy(self) -> tuple[str, float] | None:
        """The job under way and for how many seconds; None when idle."""
        now = self._busy
        return None if now is None else (now[0], self._loop.now() - now[1])

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            self._busy = (job.name, self._loop.now())
            result: object
            try:
                result = job.work()
            except Exception as problem:
                result = problem
            self._busy = None
            self._loop.call_from_thread(lambda job=job, result=result: job.done(result))  # type: ignore[misc]


class StorageThreads:
    """The workers by device number, made when first needed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._by_device: dict[int, StorageThread] = {}

    def run(self, device: int, name: str, work: Callable[[], object], done: Callable[[object], None]) -> None:
        """Do ``work`` in the device's thread; ``done`` gets its result, or the exception, in the loop."""
        thread = self._by_device.get(device)
        if thread is None:
            try:
                thread = StorageThread(self._loop, "this host" if device == THIS_HOST else f"{device:#x}")
            except (RuntimeError, MemoryError) as problem:
                # The job is not lost: somebody waits for its end, and would wait for ever.
                log.error("%s has to wait: %s", name, problem)
                self._loop.call_in(_AGAIN, lambda: self.run(device, name, work, done))
                return
            self._by_device[device] = thread
        thread.submit(_Job(name, work, done))

    def busy(self) -> dict[int, tuple[str, float]]:
        """Devices whose worker is at work: the job's name and for how many seconds."""
        found = {device: thread.busy() for device, thread in self._by_device.items()}
        return {device: state for device, state in found.items() if state is not None}
