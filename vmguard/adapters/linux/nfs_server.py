"""This host's own NFS server (knfsd): what it exports, and whether it is in its grace period. Asks no other host.

In a grace period clients reclaim their locks (RFC 8881, 8.4.2.1). Processes on the server itself are not bound by it:
their locks on the exported files succeed, and the reclaims of the clients that own them are denied.

A server in user space is not detected here. NFS-Ganesha's FSAL VFS has its clients' locks as OFD locks on the files
(measured with 4.3), so that a local claim meets them; in its grace period, before the reclaims, it meets nothing.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux.mounts import unescape

#: knfsd's own file system, and lockd's file for NFSv3; each says N until the grace period is over (fs/nfsd/nfsctl.c,
#: write_v4_end_grace; fs/lockd/procfs.c). They also say N while the module is loaded and the server not started yet:
#: on a booting host whose clients will reclaim their locks as soon as it is up.
NFSD = "/proc/fs/nfsd"
LOCKD_END_GRACE = "/proc/fs/lockd/nlm_end_grace"
#: all that exportfs(8) exports; /proc/fs/nfsd/exports lists only what a client has asked for already
ETAB = "/var/lib/nfs/etab"


class NfsServer:
    """The server, by the files in which the kernel and exportfs(8) show it."""

    def __init__(self, nfsd: str = NFSD, lockd_end_grace: str = LOCKD_END_GRACE, etab: str = ETAB) -> None:
        self._nfsd = nfsd
        self._lockd_end_grace = lockd_end_grace
        self._etab = etab

    def in_grace(self) -> bool:
        """Return whether this host's NFS server is in its grace period, or not up yet; False if there is none."""
        version_4 = _read(os.path.join(self._nfsd, "v4_end_grace"))
        return bool(version_4) and (version_4.startswith("N") or _read(self._lockd_end_grace).startswith("N"))

    def grace_seconds(self) -> int:
        """Return how long a grace period is, 0 if that is not known."""
        text = _read(os.path.join(self._nfsd, "nfsv4gracetime")).strip()
        return int(text) if text.isdigit() else 0

    def exports(self) -> list[str]:
        """Return the folders that are exported; none where no server is running or about to."""
        if not os.path.exists(os.path.join(self._nfsd, "v4_end_grace")):
            return []
        lines = [*_read(self._etab).split("\n"), *_read(os.path.join(self._nfsd, "exports")).split("\n")]
        folders = [unescape(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]
        return list(dict.fromkeys(folder for folder in folders if folder.startswith("/")))


def export_of(path: str, folders: list[str]) -> str:
    """Return the exported folder that a local file lies below, by whatever path; empty if there is none.

    Folders are compared by device and inode: an export is often a bind mount. May touch local file systems.
    """
    roots: dict[tuple[int, int], str] = {}
    for folder in folders:
        try:
            status = os.stat(folder)
        except OSError:
            continue
        roots.setdefault((status.st_dev, status.st_ino), folder)
    here = path
    while roots:
        try:
            status = os.stat(here)
        except OSError:
            return ""
        found = roots.get((status.st_dev, status.st_ino))
        if found is not None:
            return found
        here, below = os.path.dirname(here), here
        if here == below:
            break
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""
