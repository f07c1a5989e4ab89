"""The shield: copies of QEMU's descriptions, which turn what a dead QEMU had queued into EIO once its lock is lost.

A QEMU without image locks (Proxmox) is shielded all the time. One with image locks (libvirt) is not while its server
answers: the bytes that QEMU has locked on a descriptor live on in our copy when QEMU closes it, and QEMU ends itself
when it meets them ("Failed to get shared "write" lock", block/file-posix.c, raw_check_lock_bytes). There the copies are
taken as soon as a server owes an answer, which is before anything can be lost, and closed when it has given it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from vmguard.adapters.linux import pidfd, proc, systemd
from vmguard.daemon.pin.lock_transfer import close_last
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.storage_threads import Workers

log = logging.getLogger("vmguard.shield")


class Shield:
    """Takes and closes copies. Taking one is local: no request is made, so a dead server cannot hinder it."""

    def __init__(self, workers: Workers, registry: Registry, calmed: Callable[[], None]) -> None:
        self._workers = workers
        self._registry = registry
        self._calmed = calmed
        self._doubted: set[int] = set()

    def doubt(self, device: int, doubted: bool) -> None:
        """A server owes an answer, or has given it."""
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
        """Whether a copy must stay, whatever QEMU locks."""
        return file.key[0] in self._doubted or vm.frozen or bool(vm.fencing)

    def take(self, vm: GuardedVm, device: int | None = None) -> None:
        """A copy of every pinned description of a VM (on one device) that we have none of."""
        for file in vm.files:
            process = vm.process(file.pin.pid) if file.pin is not None else None
            if file.fd >= 0 or file.pin is None or process is None or device not in (None, file.key[0]):
                continue
            try:
                copy = pidfd.copy_descriptor(process.pidfd, file.pin.fd)
            except OSError as problem:
                log.info("%s: no copy of %s: %s", vm.title, file.path, problem)
                continue
            if proc.fdinfo("self", copy).inode != file.key[1]:
                self._close(file, [copy])  # QEMU has closed it and uses the number for something else
                continue
            file.fd = copy
            if systemd.may_store(copy):
                systemd.store(vm.store_name(file), copy)

    def drop(self, vm: GuardedVm, file: GuardedFile) -> None:
        """Close our copy; the description, and the lock on it, live on in the process."""
        fds, file.fd = [file.fd], -1
        systemd.forget(vm.store_name(file))
        self._close(file, fds)

    def _close(self, file: GuardedFile, fds: list[int]) -> None:
        self._workers.run(file.key[0], f"close a copy of {file.path}", lambda: close_last(fds), _report)


def description(vm: GuardedVm, file: GuardedFile) -> int:
    """A copy of the description that carries a file's lock, for one question; -1 when there is none."""
    if file.fd >= 0:
        return os.dup(file.fd)
    process = vm.process(file.pin.pid) if file.pin is not None else None
    if process is None or file.pin is None:
        return -1
    try:
        return pidfd.copy_descriptor(process.pidfd, file.pin.fd)
    except OSError:
        return -1


def _report(result: object) -> None:
    if isinstance(result, Exception):
        log.error("closing a copy went wrong: %s", result)
