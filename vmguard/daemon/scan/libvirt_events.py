"""libvirt's own events: a reason to look at a VM at once. All is right without them, a second later.

libvirt is never waited for: a process of its own listens to it (jobs/libvirt_events.py), is ended when it hangs, and
started again when it has ended.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable

from vmguard.adapters import hypervisors
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop
from vmguard.jobs.libvirt_events import IO_ERROR, MISSING

log = logging.getLogger("vmguard.hints")

_URI = "qemu:///system"
#: before a listener that ended is started again
_RESTART_S = 20.0
#: between two checks whether this host has a libvirt
_LIBVIRT_POLL_S = 5.0


class LibvirtEvents:
    """One listener at a time."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        attend: Callable[[GuardedVm], None],
        failed: Callable[[GuardedVm], None],
        wanted: Callable[[], bool],
    ) -> None:
        """``failed``: its QEMU met an I/O error. ``wanted``: whether there is a libvirt to listen to on this host."""
        self._loop = loop
        self._registry = registry
        self._attend = attend
        self._failed = failed
        self._wanted = wanted

    def start(self) -> None:
        if not self._wanted():
            self._loop.call_in(_LIBVIRT_POLL_S, self.start)
            return
        library = importlib.util.find_spec("libvirt")  # where it is, without loading it
        folder = os.path.dirname(library.origin or "") if library is not None else ""
        heard, tells = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(heard, False)
        try:
            words = [_URI, str(tells), folder]
            subprocesses.start(
                self._loop, "libvirt_events", lambda status: self._over(heard, status), words, fds=[tells]
            )
        except OSError as problem:
            log.warning("libvirt's events are not listened to: %s", problem)
            os.close(heard)
            self._loop.call_in(_RESTART_S, self.start)
        else:
            self._loop.watch(heard, lambda: self._read(heard))
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
        lines = text.split("\n")[:-1]  # what is cut off at the end of a full pipe only makes a hint less
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
            pass  # its end was seen already
        os.close(heard)
        if status == MISSING:
            log.info("libvirt's events are not listened to: libvirt-python is not installed")
        else:
            self._loop.call_in(_RESTART_S, self.start)
