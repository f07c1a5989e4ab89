"""Tell the files that a backup writes from a VM's own disks: QEMU has both open alike.

A VM is never frozen or killed for its backup. What the hypervisor's own files name as a backup's, and no claim as the
VM's, is pure output for as long as that lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from vmguard.core.locks.plan import DISK, EXCLUSIVE, OUTPUT, role_of_found
from vmguard.core.words import printable
from vmguard.daemon.registry.guarded_vm import GuardedVm

log = logging.getLogger("vmguard.pin")

#: after a file was found; libvirt notes the backup in its status file once QEMU has begun it (qemuBackupBegin)
LOOK_AGAIN_S = 3.0


class BackupFiles:
    """The judgement of the files that no claim names."""

    def __init__(self, files_of: Callable[[GuardedVm], frozenset[str]]) -> None:
        """``files_of`` returns the paths that a VM's backup writes to, by its hypervisor's own files."""
        self._files_of = files_of

    def judge(self, vm: GuardedVm) -> None:
        """Give each file that was found, and is written to, the role that it has now."""
        found = [file for file in vm.files if file.guard.origin.is_found and file.mode == EXCLUSIVE]
        found = [file for file in found if file.role in (DISK, OUTPUT)]
        if not found:
            return
        written = self._files_of(vm)
        for file in found:
            is_output = file.path in written or file.real in written
            role = OUTPUT if is_output else role_of_found(file.path, True)
            if role != file.role:
                file.role, vm.changed = role, True
                what = "a backup's, which the VM can live without" if is_output else "its own"
                log.info("%s: %s is %s", vm.title, printable(file.path), what)
