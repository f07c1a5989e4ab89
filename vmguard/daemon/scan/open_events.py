"""Watch guarded files by inotify: QEMU opens a file anew before it closes the old descriptor."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable

from vmguard.adapters.linux import inotify, ofd, proc
from vmguard.adapters.linux.proc import Key
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import StorageThreads

log = logging.getLogger("vmguard.scan")

#: most VMs that share a file and are all scanned when it is opened. A template is opened at each start of many VMs;
#: the periodic scan is enough for it
_MAX_SHARING_VMS = 4
#: before a watch that failed is retried
_RETRY_S = 60.0


class OpenEvents:
    """The inotify watches by VM and file. One inode has one watch, however many VMs use it as their backing file."""

    def __init__(
        self,
        loop: Loop,
        threads: StorageThreads,
        opened: Callable[[str], None],
        missed: Callable[[], None],
        living: Callable[[GuardedVm], bool],
        connect: Callable[[], inotify.Inotify] = inotify.Inotify,
    ) -> None:
        """``opened`` gets the id of a VM whose file was opened. ``missed`` is called when the kernel has lost events.

        ``living`` returns whether a VM is still to be watched. ``connect`` opens an instance of inotify.
        """
        self._loop = loop
        self._threads = threads
        self._opened = opened
        self._missed = missed
        self._living = living
        self._connect = connect
        self._inotify: inotify.Inotify | None = None
        self._watches: dict[str, dict[Key, int]] = {}
        self._users: dict[int, set[str]] = {}
        #: watches that are being added or failed: when they may be retried
        self._not_before: dict[tuple[str, Key], float] = {}
        self._blind = False
        self._begin()

    def _begin(self) -> None:
        """Open the instance; the limit of instances may be used up by others, now or for a while."""
        try:
            self._inotify = self._connect()
        except OSError as problem:
            if not self._blind:
                log.warning(
                    "the kernel does not tell who opens a disk (%s); it is seen a second later. "
                    "Raise the sysctl fs.inotify.max_user_instances",
                    problem,
                )
            self._blind = True
            self._loop.call_in(_RETRY_S, self._begin)
            return
        self._blind = False
        self._loop.watch(self._inotify.fd, self._read)

    def add(self, vm: GuardedVm, file: GuardedFile) -> None:
        """Watch a file through a descriptor, so that no path is looked up again; in the file system's thread.

        Where we keep no copy, it is the process's own descriptor: without a copy the lock ends with it, and must be
        put onto the next one at once.
        """
        events, known, now = self._inotify, (vm.id, file.key), self._loop.now()
        if events is None or self.watches(vm, file) or now < self._not_before.get(known, 0.0):
            return
        descriptor, pin = file.guard.descriptor, file.guard.pin
        copy = os.dup(descriptor) if descriptor is not None else None
        if copy is not None:
            pid, fd = "self", copy
        elif pin is not None:
            pid, fd = str(pin.pid), pin.fd
        else:
            return
        self._not_before[known] = math.inf

        def add() -> tuple[int | None, bool]:
            watch = None
            try:
                watch = events.add(f"/proc/{pid}/fd/{fd}")
                return watch, proc.fdinfo(pid, fd).inode == file.key[1]  # the number may belong to another file by now
            except FileNotFoundError:  # QEMU has closed it: the next scan finds what it has open instead
                return watch, False
            finally:
                if copy is not None:
                    ofd.close(copy)

        self._threads.run(file.key[0], f"watch {file.path}", add, functools.partial(self._added, vm, file))

    def _added(self, vm: GuardedVm, file: GuardedFile, result: object) -> None:
        self._not_before.pop((vm.id, file.key), None)
        if isinstance(result, tuple):
            watch, right = result
            if watch is not None and right and self._living(vm) and file in vm.files:
                self._watches.setdefault(vm.id, {})[file.key] = watch
                self._users.setdefault(watch, set()).add(vm.id)
            elif watch is not None and not self._users.get(watch):
                self._drop(watch)
        elif self._living(vm):
            self._not_before[vm.id, file.key] = self._loop.now() + _RETRY_S
            if not self._blind:
                log.warning(
                    "%s: the kernel does not tell who opens %s (%s); it is seen a second later. "
                    "If that is ENOSPC: raise the sysctl fs.inotify.max_user_watches",
                    vm.title,
                    file.path,
                    result,
                )
            self._blind = True

    def watches(self, vm: GuardedVm, file: GuardedFile) -> bool:
        """Return whether opens of a VM's file are seen."""
        return file.key in self._watches.get(vm.id, ())

    def remove(self, vm: GuardedVm, key: Key) -> None:
        """Stop watching one file for a VM."""
        watch = self._watches.get(vm.id, {}).pop(key, None)
        if watch is None:
            return
        users = self._users.get(watch, set())
        users.discard(vm.id)
        if not users:
            self._users.pop(watch, None)
            self._drop(watch)

    def forget(self, vm: GuardedVm) -> None:
        """Stop watching all files of a VM."""
        for key in list(self._watches.get(vm.id, ())):
            self.remove(vm, key)
        self._watches.pop(vm.id, None)
        for known in [known for known in self._not_before if known[0] == vm.id]:
            del self._not_before[known]

    def _drop(self, watch: int) -> None:
        if self._inotify is not None:
            self._inotify.remove(watch)

    def _read(self) -> None:
        if self._inotify is None:
            return
        happened = set(self._inotify.events())
        if inotify.OVERFLOW in happened:
            self._missed()
        concerned: set[str] = set()
        for watch in happened:
            users = self._users.get(watch, set())
            if len(users) <= _MAX_SHARING_VMS:
                concerned |= users
        for vm_id in concerned:
            self._opened(vm_id)
