"""Keep copies of QEMU's descriptions: once a lock is lost, they turn what a dead QEMU had queued into EIO.

For a QEMU without image locks (Proxmox) a copy is kept all the time. For one with image locks (libvirt) none is kept
while its server answers: the bytes that QEMU has locked on a descriptor live on in our copy when QEMU closes it, and
QEMU ends itself when it meets them ("Failed to get shared "write" lock", block/file-posix.c, raw_check_lock_bytes).
There the copies are taken as soon as a server owes an answer, which is before anything can be lost, and closed once it
has answered.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

from vmguard.adapters.linux import pidfd, proc, systemd
from vmguard.daemon.pin.lock_transfer import close_last
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.storage_threads import StorageThreads

log = logging.getLogger("vmguard.pin")


class FdCopies:
    """The copies of all VMs. Taking one is local: it sends no request, so a dead server cannot delay it."""

    def __init__(self, threads: StorageThreads, registry: Registry, calmed: Callable[[], None]) -> None:
        """``calmed`` is called when a server that owed an answer has answered."""
        self._threads = threads
        self._registry = registry
        self._calmed = calmed
        self._doubted: set[int] = set()

    def doubt(self, device: int, doubted: bool) -> None:
        """Note that a device's server owes an answer, or has answered; take copies while it owes one."""
        if doubted == (device in self._doubted):
            return
        if doubted:
            self._doubted.add(device)
            for vm in self._registry:
                self.take(vm, device)
        else:
            self._doubted.discard(device)
            self._calmed()

    def wants(self, vm: GuardedVm, file: GuardedFile) -> bool:
        """Return whether we must keep a copy, whatever QEMU locks on it."""
        return file.key[0] in self._doubted or vm.frozen or bool(vm.fencing)

    def take(self, vm: GuardedVm, device: int | None = None) -> None:
        """Copy every pinned description of a VM (on one device) of which we have no copy."""
        for file in vm.files:
            pin = file.guard.pin
            process = vm.process(pin.pid) if pin is not None else None
            has_descriptor = file.guard.descriptor is not None
            if has_descriptor or pin is None or process is None or device not in (None, file.key[0]):
                continue
            try:
                copy = pidfd.copy_descriptor(process.pidfd, pin.fd)
            except OSError as problem:
                log.info("%s: no copy of %s: %s", vm.title, file.path, problem)
                continue
            if proc.fdinfo("self", copy).inode != file.key[1]:
                self.close(file, copy)  # QEMU has closed it and uses the number for something else
                continue
            file.guard.copy_taken(copy)
            if systemd.may_store(copy):
                systemd.store(vm.store_name(file), copy)

    def drop(self, vm: GuardedVm, file: GuardedFile) -> None:
        """Close our copy; the description, and the lock on it, live on in the process."""
        copy = file.guard.copy_dropped()
        systemd.forget(vm.store_name(file))
        self.close(file, copy)

    def close(self, file: GuardedFile, descriptor: int | None) -> None:
        """Close a descriptor that the file's guard no longer has, if there is one.

        It is closed soon, because QEMU's own image locks live on in it, but after the jobs in the thread's queue that
        still use it.
        """
        if descriptor is not None:
            work = functools.partial(close_last, [descriptor])
            self._threads.run(file.key[0], f"close a copy of {file.path}", work, _report)


def description(vm: GuardedVm, file: GuardedFile) -> int | None:
    """Return a copy of the description that carries a file's lock, for one probe; None when there is none."""
    descriptor, pin = file.guard.descriptor, file.guard.pin
    if descriptor is not None:
        return os.dup(descriptor)
    process = vm.process(pin.pid) if pin is not None else None
    if process is None or pin is None:
        return None
    try:
        return pidfd.copy_descriptor(process.pidfd, pin.fd)
    except OSError:
        return None


def _report(result: object) -> None:
    if isinstance(result, Exception):
        log.error("closing a copy went wrong: %s", result)
