"""Which of the files that a VM has open get a lock, although no claim has named them.

That QEMU has a file open proves that it uses it, and not that the admin has meant it: whoever may write to an image can
name any file of this host in its header, and QEMU opens that. So what a claim would refuse (storage/reach.py) gets no
lock later either, and no record beside it. It cannot be refused any more, only reported:

where the file lies             it gets a lock
an NFSv4 share                  always: other hosts may open it, and no other lock keeps them out
a mount that others may share   if QEMU itself locks it as an image: the lock is in the way of those alone who use it
this host's own file systems    only in the folder of one of the VM's own files, below that, or below
                                storage.trusted_folders

On this host's own file systems the lock would only keep two VMs of this host apart, which QEMU's own locks do, and on a
file of the host's (dpkg's, say) it stops the host's programs. What the arguments of an adopted QEMU name counts as its
configuration: it is there already when the pinner looks (adopt/unclaimed_qemu.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

from vmguard.adapters.linux.proc import Key, OpenFile
from vmguard.core.sources.process_arguments import Kind
from vmguard.core.words import printable
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.scan.process_fds import MountTables, may_be_image

log = logging.getLogger("vmguard.pin")


class Unannounced:
    """The rule, with this host's mounts and the folders that the admin trusts."""

    def __init__(self, tables: MountTables, trusted: Callable[[], Iterable[str]]) -> None:
        self._tables = tables
        self._trusted = trusted
        #: by VM: files that were reported
        self._told: dict[str, set[Key]] = {}

    def is_image(self, kind: Kind, user: OpenFile) -> bool:
        """Return whether a file that a process has open is one that a lock should guard, wherever it lies."""
        return user.key[0] not in self._tables.smb() and may_be_image(kind, user, self._tables.shares())

    def is_within(self, user: OpenFile, files: Iterable[GuardedFile]) -> bool:
        """Return whether a file may get a lock as one of the VM that has these ``files``."""
        device = user.key[0]
        if device in self._tables.shares() or self._tables.why_other(device):
            return True
        homes = {os.path.dirname(file.real or file.path) for file in files if file.key[0] == device}
        homes.update(self._trusted())
        return any(user.path.startswith(f"{home.rstrip('/')}/") for home in homes)

    def may_lock(self, vm: GuardedVm, kind: Kind, user: OpenFile) -> bool:
        """Return whether a file of a VM gets a lock. One that is written to and gets none is reported once."""
        if not self.is_image(kind, user):
            return False
        if self.is_within(user, vm.files):
            return True
        told = self._told.setdefault(vm.id, set())
        if user.info.writable and user.key not in told:
            told.add(user.key)
            log.warning(
                "%s: it writes to %s, on this host's own file system and in no folder of its disks: not locked, as the "
                "header of an image may have named it; if it is yours: storage.trusted_folders",
                vm.title,
                printable(user.path),
            )
        return False

    def why_other(self, kind: Kind, user: OpenFile) -> str:
        """Return why no lock is proven to keep other hosts from a file that a VM writes to; empty if it is none such.

        What virtiofsd has open is its guest's, shared by nature; what is only appended to is a log.
        """
        if kind is Kind.VIRTIOFSD or not user.info.writable or user.info.appends:
            return ""
        return self._tables.why_other(user.key[0])

    def forget(self, vm: GuardedVm) -> None:
        """Forget what was reported of a VM that is gone."""
        self._told.pop(vm.id, None)
