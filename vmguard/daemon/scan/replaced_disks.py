"""Looks once in a slow round whether each disk is still the file that its path leads to; an alarm if it is not.

The look is a request to the share, so the file system's worker makes it: one stat for each writable file.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from vmguard.adapters.storage.replaced import why_replaced
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads

log = logging.getLogger("vmguard.scan")


class ReplacedDisks:
    """The look at all writable files of all VMs that run."""

    def __init__(
        self,
        loop: Loop,
        threads: StorageThreads,
        registry: Registry,
        interval: Callable[[], float],
        report: Callable[[Report], None],
    ) -> None:
        """``interval``: seconds between two looks."""
        self._loop = loop
        self._threads = threads
        self._registry = registry
        self._interval = interval
        self._report = report
        #: devices whose last look has not come back
        self._waiting: set[int] = set()

    def start(self) -> None:
        """Look once in each interval from now on."""
        self._loop.call_in(self._interval(), self._look_again)

    def _look_again(self) -> None:
        self._loop.call_in(self._interval(), self._look_again)
        self.look()

    def look(self) -> None:
        """Look at all files whose storage has answered the last time."""
        by_device: dict[int, list[tuple[GuardedVm, GuardedFile]]] = {}
        for vm in self._registry:
            for file in vm.files if vm.state in LIVING else ():
                if file.mode == EXCLUSIVE and file.guard.is_locked:
                    by_device.setdefault(file.key[0], []).append((vm, file))
        for device, found in by_device.items():
            if device in self._waiting:
                continue
            self._waiting.add(device)
            work = functools.partial(_look, found)
            done = functools.partial(self._seen, device, found)
            self._threads.run(device, "look whether disks were replaced", work, done)

    def _seen(self, device: int, found: list[tuple[GuardedVm, GuardedFile]], answer: object) -> None:
        self._waiting.discard(device)
        if not isinstance(answer, list):
            log.warning("nobody knows whether disks were replaced: %s", answer)
            return
        for (vm, file), why in zip(found, answer, strict=True):
            if why is None or why == file.replaced or file not in vm.files:
                continue
            file.replaced = why
            self._registry.save(vm)
            if why:
                text = f"{vm.title}: {why}"
                self._report(Report(Level.ERROR, "vm.disk-replaced", text, {"vm": vm.id, "path": file.path}))
            else:
                text = f"{vm.title}: {file.path} is its file again"
                self._report(Report(Level.INFO, "vm.disk-back", text, {"vm": vm.id, "path": file.path}))


def _look(found: list[tuple[GuardedVm, GuardedFile]]) -> list[str | None]:
    """Return for each file why it was replaced; None where that cannot be known now."""
    answers: list[str | None] = []
    for vm, file in found:
        try:
            own = {other.key[1] for other in list(vm.files)}
            answers.append(why_replaced(file.real or file.path, file.key[1], own, _link(file)))
        except OSError:
            answers.append(None)
    return answers


def _link(file: GuardedFile) -> str:
    """Return a descriptor of the file in /proc, the process's own or ours; empty if there is none."""
    pin, descriptor = file.guard.pin, file.guard.descriptor
    if pin is not None:
        return f"/proc/{pin.pid}/fd/{pin.fd}"
    return f"/proc/self/fd/{descriptor}" if descriptor is not None else ""
