"""Whether an open file is still the one that its path leads to. Asks the share: may hang.

A lock is on an inode. When the image of a running VM is deleted, or another file is put in its place by rename, the VM
runs on in a file that no other host can find, and its lock keeps nobody from starting it on the new one.
"""

from __future__ import annotations

import errno
import os

from vmguard.adapters.storage.path_walk import find_near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

#: how an NFS client renames a file that is deleted while it has it open (fs/nfs/unlink.c)
_SILLY = ".nfs"
#: what the kernel appends to the link of a file without a name
_GONE = " (deleted)"


def why_replaced(path: str, inode: int, own: Collection[int], link: str = "") -> str:
    """Return why a file is not what its path leads to any more, empty if it is, or was only renamed.

    ``own``: all inodes that the VM has; one of them in its place is a snapshot of the hypervisor's making.
    ``link``: an open descriptor of the file in /proc, if there is one. Raises OSError when the share does not tell.
    """
    path = path.removesuffix(_GONE)
    try:
        held = find_near(path)
        held.close()
    except FileNotFoundError:
        return f"{path} was deleted: the VM runs on in a file without a name" if _is_deleted(link, inode) else ""
    except OSError as problem:
        if problem.errno != errno.ELOOP:
            raise
        return f"{path} is led elsewhere by a symbolic link now: the VM runs on in the old file"
    found = held.status.st_ino
    if found == inode or found in own:
        return ""
    return (
        f"{path} is another file now (inode {found}, not {inode}): the VM runs on in the old one, and another host may"
        " start it on the new one"
    )


def _is_deleted(link: str, inode: int) -> bool:
    """Return whether an open file has no name any more. Without a descriptor nobody can tell: False."""
    if not link:
        return False
    try:
        status = os.stat(link)
        if status.st_ino != inode:  # closed meanwhile, and the number belongs to something else
            return False
        name = os.path.basename(os.readlink(link))
    except OSError as problem:
        return problem.errno == errno.ESTALE
    return status.st_nlink == 0 or name.startswith(_SILLY)
