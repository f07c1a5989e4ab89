"""Abort all queued requests of an NFS mount, in a process of its own: ``cut MOUNT-POINT...``.

``umount -f`` first makes the client answer every queued request of that superblock with EIO (nfs_umount_begin,
rpc_killall_tasks) and then tries to unmount. Only the first is wanted: it is done in a mount namespace of this process
alone, so that the host's mount stays whatever comes of the second.
"""

from __future__ import annotations

import errno
import os
import sys

from vmguard.adapters.linux.libc import check, libc

_CLONE_NEWNS = 0x00020000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_FORCE = 1


def cut(points: list[str]) -> None:
    """Abort every queued request of these mounts. Raises OSError."""
    check(int(libc.unshare(_CLONE_NEWNS)), "unshare")
    check(int(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)), "mount --make-rprivate", "/")
    for point in points:
        try:
            check(int(libc.umount2(os.fsencode(point), _MNT_FORCE)), "umount -f", point)
        except OSError as problem:
            if problem.errno != errno.EBUSY:  # what the second half of umount -f may say: files are still open there
                raise


def main() -> int:
    try:
        cut(sys.argv[1:])
    except OSError as problem:
        sys.stderr.write(f"requests queued on {problem.filename or 'a mount'!r} could not be cut off: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
