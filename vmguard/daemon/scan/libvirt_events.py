"""libvirt's own events: a reason to scan a VM at once. Without them the result is the same, a second later.

The daemon never waits for libvirt: a child process listens to it (jobs/libvirt_events.py). It ends when libvirt hangs,
and is started again.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from vmguard.adapters import hypervisors
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.subprocesses import Done
from vmguard.jobs.libvirt_events import IO_ERROR, MISSING

log = logging.getLogger("vmguard.scan")

_URI = "qemu:///system"
#: before a listener that ended is started again
_RESTART_S = 20.0
#: between two checks whether this host has a libvirt
_LIBVIRT_POLL_S = 5.0


class StartJob(Protocol):
    """Starts a job, as ``subprocesses.start`` does."""

    def __call__(self, loop: Loop, module: str, done: Done, words: Sequence[str], *, fds: Sequence[int]) -> None:
        """Raises OSError when it cannot be started."""


class LibvirtEvents:
    """The listener to libvirt, one child process at a time."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        attend: Callable[[GuardedVm], None],
        failed: Callable[[GuardedVm], None],
        wanted: Callable[[], bool],
        start_job: StartJob = subprocesses.start,
    ) -> None:
        """``attend`` is called with a VM that libvirt mentions, ``failed`` with one whose QEMU met an I/O error.

        ``wanted`` returns whether this host has a libvirt to listen to. ``start_job`` starts the listener.
        """
        self._loop = loop
        self._registry = registry
        self._attend = attend
        self._failed = failed
        self._wanted = wanted
        self._start_job = start_job

    def start(self) -> None:
        """Start the listener, now or once it is wanted."""
        if not self._wanted():
            self._loop.call_in(_LIBVIRT_POLL_S, self.start)
            return
        library = importlib.util.find_spec("libvirt")  # finds it without loading it
        folder = os.path.dirname(library.origin or "") if library is not None else ""
        heard, tells = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(heard, False)
        try:
            words = [_URI, str(tells), folder]
            self._start_job(self._loop, "libvirt_events", functools.partial(self._over, heard), words, fds=[tells])
        except OSError as problem:
            log.warning("libvirt's events are not listened to: %s", problem)
            os.close(heard)
            self._loop.call_in(_RESTART_S, self.start)
        else:
            self._loop.watch(heard, functools.partial(self._read, heard))
        finally:
            os.close(tells)

    def _read(self, heard: int) -> None:
        try:
            text = os.read(heard, 65536).decode("ascii", "replace")
        except BlockingIOError:
            return
        if not text:
            self._loop.unwatch(heard)  # the listener has ended, or is about to
            return
        lines = text.split("\n")[:-1]  # a line cut off by a full pipe is only one event less
        if "" in lines:
            log.info("libvirt's events are listened to")
        for vm in self._registry:
            if not hypervisors.by_name(vm.hypervisor).sends_events:
                continue
            if vm.uuid in lines:
                log.debug("%s: libvirt tells of it", vm.title)
                self._attend(vm)
            if vm.uuid + IO_ERROR in lines:
                self._failed(vm)

    def _over(self, heard: int, status: int) -> None:
        try:
            self._loop.unwatch(heard)
        except KeyError:
            pass  # its end was read already
        os.close(heard)
        if status == MISSING:
            log.info("libvirt's events are not listened to: libvirt-python is not installed")
        else:
            self._loop.call_in(_RESTART_S, self.start)
