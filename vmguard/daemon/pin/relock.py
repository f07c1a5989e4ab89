"""Take a lost lock anew where the VM goes on: on a medium that nobody writes, or on pure output.

The kernel answers every read through such a description with EIO until the lock is gone from it.
"""

from __future__ import annotations

import functools
import logging

from vmguard.adapters.linux.proc import Key
from vmguard.core.locks.claim_states import LIVING
from vmguard.core.locks.guard_states import Pin
from vmguard.daemon.pin.lock_transfer import lock_again
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads

log = logging.getLogger("vmguard.pin")

#: before it is tried again
_RETRY_S = 5.0


class Relocker:
    """Lock a pinned file again on the description that lost the lock, until it has it or the VM is gone."""

    def __init__(self, loop: Loop, threads: StorageThreads, registry: Registry) -> None:
        self._loop = loop
        self._threads = threads
        self._registry = registry

    def lock_again(self, vm: GuardedVm, key: Key) -> None:
        file = next((file for file in vm.files if file.key == key), None)
        pin = file.guard.pin if file is not None else None
        process = vm.process(pin.pid) if pin is not None else None
        if file is None or pin is None or process is None or vm.state not in LIVING:
            return
        again = functools.partial(
            lock_again, process.pidfd, pin.fd, file.path, file.mode, tuple(file.pieces), self._loop.now
        )
        done = functools.partial(self._done, vm, file, pin)
        self._threads.run(file.key[0], f"lock {file.path} again", again, done)

    def _done(self, vm: GuardedVm, file: GuardedFile, pin: Pin, result: object) -> None:
        if file.guard.pin != pin:
            return  # it follows another description by now
        if not isinstance(result, float):
            log.warning("%s: %s is not locked again yet: %s", vm.title, file.path, result)
            self._loop.call_in(_RETRY_S, functools.partial(self.lock_again, vm, file.key))
            return
        file.guard.pinned_on(pin, file.guard.descriptor, result)
        file.relocks += 1
        log.info("%s: %s is locked again", vm.title, file.path)
        self._registry.save(vm)
