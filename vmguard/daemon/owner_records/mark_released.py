"""Mark owner records as released, in child processes that are killed when the storage does not answer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import vmguard
from vmguard.adapters.linux import clock, host_identity
from vmguard.core.locks.saved_state import FAILED
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.records")

_MAX_RECENT = 64

MarkReleased = Callable[[GuardedVm, Sequence[GuardedFile]], None]


@dataclass(frozen=True)
class RecordSettings:
    """The configuration of owner records."""

    #: name of the folder beside the image; empty when no records are wanted
    folder: str
    #: seconds
    timeout: float
    #: configured name of this host; empty: its host name
    host: str


def fields(settings: RecordSettings) -> dict[str, str]:
    """Return the fields of every record that describe this host."""
    return {
        "host": settings.host or host_identity.host_name(),
        "machine": host_identity.machine_id(),
        "boot": host_identity.boot_id(),
        "version": vmguard.__version__,
    }


class ReleaseMarks:
    """The writer of release marks: one child process for each VM."""

    def __init__(self, loop: Loop, settings: Callable[[], RecordSettings]) -> None:
        self._loop = loop
        self._settings = settings
        #: VMs whose records were marked last, oldest first: libvirt reports why a VM ended only after its release
        self._recent: dict[str, GuardedVm] = {}

    @property
    def settings(self) -> RecordSettings:
        """Return what the configuration says now."""
        return self._settings()

    def mark_released(self, vm: GuardedVm, files: Sequence[GuardedFile]) -> None:
        """Mark the records of released files. It runs after the release and never delays it."""
        jobs = self._jobs(vm, files)
        if not jobs:
            return
        self._recent.pop(vm.id, None)
        self._recent[vm.id] = vm
        if len(self._recent) > _MAX_RECENT:
            del self._recent[next(iter(self._recent))]
        self._start(vm, jobs)

    def explain(self, vm_id: str, reason: str) -> None:
        """Add why a VM ended to its records, which were marked before the hypervisor reported it."""
        vm = self._recent.pop(vm_id, None)
        if vm is not None and not vm.ended:
            vm.ended = reason
            if jobs := self._jobs(vm, vm.files):
                self._start(vm, jobs)

    def _start(self, vm: GuardedVm, jobs: list[dict[str, Any]]) -> None:
        try:
            subprocesses.start(
                self._loop,
                "mark_released",
                functools.partial(self._done, vm),
                stdin=jobs,
                seconds=self.settings.timeout,
            )
        except OSError as problem:
            log.warning("%s: its owner records cannot be marked as released: %s", vm.title, problem)

    def _done(self, vm: GuardedVm, status: int) -> None:
        if status < 0:
            log.warning("%s: its owner records could not be marked as released in time", vm.title)

    def _jobs(self, vm: GuardedVm, files: Sequence[GuardedFile]) -> list[dict[str, Any]]:
        if not self.settings.folder:
            return []
        about = {
            **fields(self.settings),
            "hypervisor": vm.hypervisor,
            "vm": vm.name,
            "uuid": vm.uuid,
            "claimed": vm.claimed,
            "released": clock.wall(),
            "ended": vm.ended or ("" if vm.may_have_run else FAILED),
        }
        return [
            {
                "path": file.real or file.path,
                "folder": self.settings.folder,
                "inode": file.key[1],
                "epoch": file.epoch,
                "fields": {**about, "path": file.path},
            }
            for file in files
            if file.epoch  # also of one that is only read by now: a disk below its snapshot
        ]
