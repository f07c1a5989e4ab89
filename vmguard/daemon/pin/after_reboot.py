"""Bring locks to the server that a reboot of it has left in this host's NFS client (adapters/storage/delegation.py).

With the reclaimed open of a QEMU that has a cache, servers since 6.12 give a write delegation, and the lock is not
reclaimed but kept in it. No other host gets in, but the server does not know of the lock. While the grace period lasts
nothing can be done about it, so this waits until it is over.
"""

from __future__ import annotations

import functools
import logging

from vmguard.adapters.linux import mounts
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.words import printable
from vmguard.daemon.pin.lock_transfer import send_if_it_stayed
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop, Timer
from vmguard.daemon.runtime.storage_threads import StorageThreads

log = logging.getLogger("vmguard.pin")

#: added to the lease, for which a grace period usually lasts
_MARGIN_S = 5.0


class LocksAfterReboot:
    """The look at the locks of a mount, some time after its client has set up its state anew."""

    def __init__(self, loop: Loop, threads: StorageThreads, registry: Registry) -> None:
        self._loop = loop
        self._threads = threads
        self._registry = registry
        #: by device
        self._planned: dict[int, Timer] = {}

    def plan(self, mount: mounts.Mount, lease: float) -> None:
        """Look at the locks of a mount once its server's grace period is over; a later reboot puts that off."""
        earlier = self._planned.pop(mount.device, None)
        if earlier is not None:
            earlier.cancel()
        look = functools.partial(self._look, mount.device)
        self._planned[mount.device] = self._loop.call_in(lease + _MARGIN_S, look)

    def _look(self, device: int) -> None:
        self._planned.pop(device, None)
        for vm in self._registry:
            for file in vm.files if vm.state in LIVING else ():
                if file.key[0] == device and file.mode == EXCLUSIVE:
                    self._send(vm, file)

    def _send(self, vm: GuardedVm, file: GuardedFile) -> None:
        pin = file.guard.pin
        process = vm.process(pin.pid) if pin is not None else None
        if pin is None or process is None:
            return
        work = functools.partial(
            send_if_it_stayed, pin.pid, process.pidfd, pin.fd, file.path, file.key, tuple(file.pieces)
        )
        self._threads.run(
            file.key[0], f"look for the lock of {file.path}", work, functools.partial(self._sent, vm, file)
        )

    def _sent(self, vm: GuardedVm, file: GuardedFile, result: object) -> None:
        name = printable(file.path)
        if isinstance(result, Exception):
            log.warning("%s: whether the lock of %s is on its server cannot be told: %s", vm.title, name, result)
        elif result:
            log.info(
                "%s: the lock of %s had stayed in this host's NFS client since a reboot of its server", vm.title, name
            )
