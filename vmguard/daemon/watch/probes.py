"""Probe locks for the watchdog, and keep copies of the descriptions while a server owes an answer."""

from __future__ import annotations

import functools
from collections.abc import Callable

from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.storage.fencing_token import record_path
from vmguard.core.watchdog.events import Answer, Ask, Event, LockId, Probe
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.states import Phase
from vmguard.daemon.pin.fd_copies import FdCopies, description
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.watch.probe_threads import ProbeThreads

#: age at which an unanswered probe is a reason to take copies for a mount's VMs
_OWED_S = 0.3


class Probes:
    """The probes under way. Nothing here touches the share: ``ProbeThreads`` sends them."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        watch: Watch,
        feed: Callable[[Event], None],
        mount_of: Callable[[int], Mount | None],
        fd_copies: FdCopies,
        record_folder: Callable[[], str],
    ) -> None:
        """``mount_of`` returns the NFSv4 mount of a device, ``record_folder`` the name of the records' folder."""
        self._loop = loop
        self._registry = registry
        self._watch = watch
        self._feed = feed
        self._mount_of = mount_of
        self._fd_copies = fd_copies
        self._record_folder = record_folder
        self._probe_threads = ProbeThreads(loop, self._answered)
        #: probes under way, and the device of each
        self._owed: dict[tuple[LockId, int], int] = {}

    def ask(self, effect: Probe) -> None:
        """Probe each lock through a copy of its own description."""
        for ask in effect.asks:
            vm = self._registry.get(ask.lock.vm)
            file = next((file for file in vm.files if file.key == ask.lock.key), None) if vm is not None else None
            fd = description(vm, file) if vm is not None and file is not None else None
            if file is None or fd is None:
                self._probe_threads.refuse(ask, effect.mount, "EBADF")
                continue
            mount = self._mount_of(file.key[0])
            seek = mount is not None and mount.option("vers") == "4.2"
            self._owed[ask.lock, ask.serial] = file.key[0]
            self._loop.call_in(_OWED_S, functools.partial(self._still_owed, ask))
            record = record_path(file.real or file.path, self._record_folder(), file.key[1]) if ask.token else ""
            self._probe_threads.ask(ask, effect.mount, fd, seek, record)

    def _still_owed(self, ask: Ask) -> None:
        device = self._owed.get((ask.lock, ask.serial))
        if device is not None:
            self._fd_copies.doubt(device, True)

    def _answered(self, answer: Answer) -> None:
        device = self._owed.pop((answer.lock, answer.serial), None)
        self._feed(answer)
        mount = self._watch.mounts.get(answer.mount)
        healthy = mount is not None and mount.phase is Phase.HEALTHY
        if device is not None and healthy and device not in self._owed.values():
            self._fd_copies.doubt(device, False)
