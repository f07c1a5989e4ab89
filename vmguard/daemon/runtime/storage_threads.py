"""Run calls on a share in threads, one for each file system: every call on NFS, even close(), can block for ever.

The loop submits a job and is called back when it is done. A storage that does not answer blocks its own thread and its
own queue, and no other one.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable

from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.runtime")


#: before a thread that could not be started is retried
_RETRY_S = 0.5
#: stands for a device number: work on /proc that would keep the loop too long
THIS_HOST = -1
#: closes the connections of those who may only read, which may have sent descriptors of any file
READERS = -2
_NAMES = {THIS_HOST: "this host", READERS: "readers"}


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
        threading.Thread(target=self._run, name=f"vmguard storage {name}", daemon=True).start()

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def busy(self) -> tuple[str, float] | None:
        """Return the name of the running job and its seconds so far; None when idle."""
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
            self._loop.call_from_thread(functools.partial(job.done, result))


class StorageThreads:
    """The threads by device number, each started when first needed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._by_device: dict[int, StorageThread] = {}

    def run(self, device: int, name: str, work: Callable[[], object], done: Callable[[object], None]) -> None:
        """Run ``work`` in the device's thread; ``done`` gets its result, or the exception, in the loop."""
        thread = self._by_device.get(device)
        if thread is None:
            try:
                thread = StorageThread(self._loop, _NAMES.get(device, f"{device:#x}"))
            except (RuntimeError, MemoryError) as problem:
                # Keep the job: its caller waits for the end, and would wait for ever.
                log.error("%s has to wait: %s", name, problem)
                self._loop.call_in(_RETRY_S, functools.partial(self.run, device, name, work, done))
                return
            self._by_device[device] = thread
        thread.submit(_Job(name, work, done))

    def busy(self) -> dict[int, tuple[str, float]]:
        """Return by device the name of the running job and its seconds so far; idle devices are left out."""
        found = {device: thread.busy() for device, thread in self._by_device.items()}
        return {device: state for device, state in found.items() if state is not None}
