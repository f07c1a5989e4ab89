"""The files that a backup writes beside a VM, by libvirt's status file of it (qemuDomainObjPrivateXMLFormatBackups).

A push backup copies each disk into a target; a pull backup keeps in a scratch file what the guest overwrites meanwhile.
QEMU has both open as it has a disk, and the guest depends on neither.
"""

from __future__ import annotations

from vmguard.core.sources.xml_tree import read_tree
from vmguard.errors import BadInput

_BACKUP = b"<domainbackup"


def files_of(status: bytes) -> frozenset[str]:
    """Return their paths; none where no backup runs, or the document cannot be read."""
    if _BACKUP not in status:
        return frozenset()
    try:
        root = read_tree(status, "domstatus", {"backups": frozenset({"domainbackup"})})
    except BadInput:
        return frozenset()
    disks = list(root.all("backups/domainbackup/disks/disk"))
    paths = (node.get("file") for disk in disks for tag in ("target", "scratch") for node in disk.all(tag))
    return frozenset(path for path in paths if path.startswith("/"))
