"""Let a claim on a file system that this host exports wait for the end of its NFS server's grace period.

Until then VMs on other hosts have not reclaimed all their locks, and a local lock would be granted regardless: their
reclaims would be denied, and those VMs killed. Imported only on a host that may be an NFS server.
"""

from __future__ import annotations

import time

from vmguard.adapters.linux import mounts
from vmguard.adapters.linux.nfs_server import export_of
from vmguard.errors import StorageTimeout
from vmguard.hook.vm_to_claim import LOCK_SLACK_S, PROGRESS_INTERVAL_S, boottime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.adapters.linux.nfs_server import NfsServer
    from vmguard.hook.claim_on_share import ClaimedFiles
    from vmguard.hook.vm_to_claim import ProgressPipe, VmToClaim
    from vmguard.protocol.messages import ClaimSettings

_RETRY_S = 0.25


def wait(
    vm: VmToClaim, claimed: ClaimedFiles, settings: ClaimSettings, progress: ProgressPipe, server: NfsServer
) -> None:
    """Wait until this host's NFS server lets no client reclaim a lock. Raise StorageTimeout when that takes too long.

    A hook that may wait does so for as long as it waits for a mount or for a lock.
    """
    export = _export_under(claimed, server) if server.in_grace() else ""
    if not export:
        return
    seconds = claimed.wait if vm.speak is None else max(claimed.wait, settings.mount_wait)
    progress.stage("waiting for the end of this host's NFS grace period", seconds + LOCK_SLACK_S)
    began = next_line = boottime()
    while server.in_grace():
        spent = boottime() - began
        if spent >= seconds:
            length = server.grace_seconds()
            raise StorageTimeout(
                f"VM '{vm.name}' is not started: this host exports {export} by NFS, and its NFS server is in its grace"
                f" period: VMs on other hosts may still reclaim their locks (waited {spent:.0f} s)",
                "retry when the grace period is over"
                + (f" (it lasts {length} s from the start of the NFS server)" if length else "")
                + "; cat /proc/fs/nfsd/v4_end_grace says Y then. If it does not end: systemctl status nfs-server",
            )
        progress.check()
        if vm.speak is not None and boottime() >= next_line:
            next_line = boottime() + PROGRESS_INTERVAL_S
            progress.note(
                f"{export} is exported by this host, whose NFS server is in its grace period; waiting for up to"
                f" {seconds - spent:.0f} s more"
            )
        time.sleep(min(_RETRY_S, seconds - spent))


def _export_under(claimed: ClaimedFiles, server: NfsServer) -> str:
    """Return an exported folder that one of the files lies in; empty if there is none."""
    folders = server.exports()
    remote = {mount.device for mount in mounts.mounts() if mount.is_nfs}  # never asked: it could hang
    for file in claimed.files:
        if folders and file.key[0] not in remote:
            found = export_of(file.real, folders)
            if found:
                return found
    return ""
