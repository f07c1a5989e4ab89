"""Tells at once when anybody opens a guarded file: QEMU opens a file anew before it lets the old descriptor go."""

from __future__ import annotations

import os
from collections.abc import Callable

from vmguard.adapters import inotify
from vmguard.adapters.proc import Key
from vmguard.daemon.loop import Loop
from vmguard.daemon.registry import GuardedFile, GuardedVm
from vmguard.daemon.workers import Workers

#: VMs that share a file and are still all looked at when it is opened: a template is opened at each start of many VMs,
#: the slow round is enough for it
_FEW = 4


class Opens:
    """inotify watches by VM and file. One inode has one watch, however many VMs use it as their backing file."""

    def __init__(
        self,
        loop: Loop,
        workers: Workers,
        opened: Callable[[str], None],
        missed: Callable[[], None],
        living: Callable[[GuardedVm], bool],
    ) -> None:
        """``opened`` gets a VM's id; ``missed``: the kernel has lost events; ``living``: may a watch still come."""
        self._workers = workers
        self._opened = opened
        self._missed = missed
        self._living = living
        self._inotify = inotify.Inotify()
        self._watches: dict[str, dict[Key, int]] = {}
        self._users: dict[int, set[str]] = {}
        loop.watch(self._inotify.fd, self._read)

    def add(self, vm: GuardedVm, file: GuardedFile) -> None:
        """Through our own descriptor, so that no path is looked up again; in the file system's worker."""
        if file.fd < 0 or file.key in self._watches.get(vm.id, ()):
            return
        copy = os.dup(file.fd)

        def add() -> int:
            try:
                return self._inotify.add(copy)
            finally:
                os.close(copy)

        self._workers.run(file.key[0], f"watch {file.path}", add, lambda result: self._added(vm, file.key, result))

    def _added(self, vm: GuardedVm, key: Key, result: object) -> None:
        if not isinstance(result, int):
            return
        if self._living(vm):
            self._watches.setdefault(vm.id, {})[key] = result
            self._users.setdefault(result, set()).add(vm.id)
        elif not self._users.get(result):
            self._inotify.remove(result)

    def remove(self, vm: GuardedVm, key: Key) -> None:
        watch = self._watches.get(vm.id, {}).pop(key, None)
        if watch is None:
            return
        users = self._users.get(watch, set())
        users.discard(vm.id)
        if not users:
            self._users.pop(watch, None)
            self._inotify.remove(watch)

    def forget(self, vm: GuardedVm) -> None:
        for key in list(self._watches.get(vm.id, ())):
            self.remove(vm, key)
        self._watches.pop(vm.id, None)

    def _read(self) -> None:
        happened = set(self._inotify.events())
        if inotify.OVERFLOW in happened:
            self._missed()
        concerned: set[str] = set()
        for watch in happened:
            users = self._users.get(watch, set())
            if len(users) <= _FEW:
                concerned |= users
        for vm_id in concerned:
            self._opened(vm_id)
