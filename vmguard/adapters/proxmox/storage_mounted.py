"""Wait for a VM's storages to be mounted.

Proxmox runs its hook BEFORE it mounts (QemuServer.pm: exec_hookscript, then activate_volumes), so after a boot the
folder of an NFS storage may still be the bare mount point, and a lock on a file there would guard nothing. pvestatd
mounts every 10 s: the claim waits for that, bounded.

Judged twice: by /proc/self/mountinfo before anything is opened, and by the device of what was opened.
"""

from __future__ import annotations

import os
import time

from vmguard.adapters.linux import mounts
from vmguard.core.sources.pve_plan import PveVm
from vmguard.core.sources.pve_storage import Storage
from vmguard.errors import LockUnavailable, PlanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_RETRY_S = 0.25
#: between two lines in the task log
_SAY_INTERVAL_S = 10.0


class VmStorages:
    """The storages that one VM's disks lie on."""

    __slots__ = ("_vm",)

    def __init__(self, vm: PveVm) -> None:
        self._vm = vm

    def wait(self, seconds: float, say: Callable[[str], None]) -> None:
        """Wait until all storages are mounted, for at most ``seconds``. Raises PlanError that names a missing one."""
        if not (why := self._missing()):
            return
        from vmguard.adapters.linux import clock  # a start whose storage is there does not pay for it

        began, next_line = clock.boottime(), 1.0
        while why:
            spent = clock.boottime() - began
            if spent >= seconds:
                raise PlanError(
                    f"VM '{self._vm.domain.name}' is not started: {why} (waited {spent:.0f} s)",
                    "pvesm status shows whether the storage is online; pvestatd mounts it every 10 s",
                )
            if spent >= next_line:
                next_line = spent + _SAY_INTERVAL_S
                say(f"waiting for the storage: {why}; for {seconds - spent:.0f} s more")
            time.sleep(min(_RETRY_S, seconds - spent))
            why = self._missing()

    def _missing(self) -> str:
        """Return what is wrong with the first storage that is not mounted; empty if all are."""
        wanted = {storage.id: storage for storage in self._vm.storages.values() if storage.mount_point}
        if not wanted:
            return ""
        found = {mount.point: mount for mount in mounts.mounts()}  # of two on one point the later one counts
        for storage in wanted.values():
            mount = found.get(storage.mount_point)
            if mount is None and storage.type != "nfs":  # Proxmox follows links here, and here alone
                mount = found.get(os.path.realpath(storage.mount_point))
            if mount is None:
                return f"storage '{storage.id}' is not mounted on {storage.mount_point}"
            if storage.type == "nfs" and not mount.is_nfs:
                return f"storage '{storage.id}': {storage.mount_point} is a {mount.type} file system, not NFS"
        return ""

    def judge(self, path: str, device: int) -> None:
        """Raise LockUnavailable if an opened file does not lie on its storage."""
        storage = self._vm.storages.get(path)
        if storage is None or not storage.mount_point:
            return
        mount = next((found for found in mounts.mounts() if found.device == device), None)
        if storage.type == "nfs" and (mount is None or not mount.is_nfs):
            raise LockUnavailable(path, _not_there(path, storage), "pvesm status shows whether the storage is online")
        if storage.type != "nfs" and device == _device(os.path.dirname(storage.mount_point) or "/"):
            raise LockUnavailable(path, _not_there(path, storage), "mount it; findmnt shows what is mounted")


def _not_there(path: str, storage: Storage) -> str:
    return f"disk {path} lies on the bare folder of storage '{storage.id}', which is not mounted"


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1
