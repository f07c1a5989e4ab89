"""Write owner records for files that were locked without a hook: adopted VMs, hot-plugged disks, overlays.

With the records goes the list of the VM's disks, which the next start compares with its own (hook/claim_replaced.py).
"""

from __future__ import annotations

import functools
import json
import logging
import os
from typing import Any

from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.daemon.owner_records.mark_released import ReleaseMarks, fields
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.records")

#: time for which files are collected before a child process is started for them
_COLLECT_S = 0.2
#: most files for one child process
_MAX_BATCH = 200
#: files for which a child process gets the timeout of one record
_PER_TIMEOUT = 20
#: suffix of the link to a deleted file in /proc
_GONE = " (deleted)"

Waiting = tuple[GuardedVm, GuardedFile]


class LateRecords:
    """The queue of records to write: one child process at a time for each device.

    Hanging storage delays only its own records.
    """

    def __init__(self, loop: Loop, registry: Registry, release_marks: ReleaseMarks) -> None:
        self._loop = loop
        self._registry = registry
        self._release_marks = release_marks
        self._waiting: dict[int, list[Waiting]] = {}

    def pinned(self, vm: GuardedVm, file: GuardedFile) -> None:
        """Write the owner record of a file that has just been locked, unless a hook writes it."""
        wanted = file.guard.origin.needs_record and file.mode == EXCLUSIVE and not file.epoch
        if not wanted or not self._release_marks.settings.folder:
            return
        device = file.key[0]
        waiting = self._waiting.setdefault(device, [])
        if any(other is file for _, other in waiting):
            return
        waiting.append((vm, file))
        if len(waiting) == 1:
            self._loop.call_in(_COLLECT_S, functools.partial(self._write, device))

    def _write(self, device: int) -> None:
        batch = self._waiting[device][:_MAX_BATCH]
        jobs = [self._job(vm, file) for vm, file in batch]
        answer = os.memfd_create("vmguard-epochs", os.MFD_CLOEXEC)
        settings = self._release_marks.settings
        try:
            subprocesses.start(
                self._loop,
                "write_records",
                functools.partial(self._written, device, batch, answer),
                words=[str(answer)],
                stdin=jobs,
                fds=[answer],
                seconds=settings.timeout * max(1, len(batch) // _PER_TIMEOUT),
            )
        except OSError as problem:
            log.warning("no owner records for %d files: %s", len(batch), problem)
            self._written(device, batch, answer, -1)

    def _written(self, device: int, batch: list[Waiting], answer: int, status: int) -> None:
        with os.fdopen(answer, "rb") as stream:
            stream.seek(0)
            text = stream.read()
        if status < 0:
            log.warning("%d owner records could not be written in time", len(batch))
        epochs = json.loads(text) if text else [0] * len(batch)
        for (vm, file), epoch in zip(batch, epochs, strict=False):
            file.epoch = int(epoch)
            if self._registry.get(vm.id) is not vm or file not in vm.files:
                self._release_marks.mark_released(vm, [file])  # it was released meanwhile
        for vm in {vm.id: vm for vm, _ in batch}.values():
            if self._registry.get(vm.id) is vm:
                self._registry.save(vm)
        left = self._waiting[device] = self._waiting[device][len(batch) :]
        if left:
            self._write(device)

    def _job(self, vm: GuardedVm, file: GuardedFile) -> dict[str, Any]:
        settings = self._release_marks.settings
        about = {
            **fields(settings),
            "hypervisor": vm.hypervisor,
            "vm": vm.name,
            "uuid": vm.uuid,
            "claimed": vm.claimed,
            "path": file.path,
        }
        return {
            "path": _place(file),
            "folder": settings.folder,
            "inode": file.key[1],
            "fields": about,
            "vm": vm.id,
            "disks": _disks_beside(vm, file),
        }


def _place(file: GuardedFile) -> str:
    return (file.real or file.path).removesuffix(_GONE)


def _disks_beside(vm: GuardedVm, file: GuardedFile) -> list[int]:
    """Return the inodes of the files in the same folder that the VM writes to."""
    folder = os.path.dirname(_place(file))
    return [other.key[1] for other in vm.files if other.mode == EXCLUSIVE and os.path.dirname(_place(other)) == folder]
