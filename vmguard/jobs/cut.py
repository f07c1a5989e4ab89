"""A process of its own that cuts off all queued requests of an NFS mount: ``cut.py MOUNT-POINT...``.

``umount -f`` first makes the client answer every queued request of that superblock with EIO (nfs_umount_begin,
rpc_killall_tasks) and then tries to unmount. Only the first is wanted: it is done in a mount namespace of this process
alone, so that the host's mount stays whatever comes of the second.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_MNT_FORCE = 1
#: what the second half of umount -f may say: files are still open there
_EBUSY = 16

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, path: str, but: int = 0) -> None:
    number = ctypes.get_errno()
    if result < 0 and number != but:
        raise OSError(number, f"{call}: {os.strerror(number)}", path)


def cut(points: list[str]) -> None:
    """Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare", "")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate", "/")
    for point in points:
        _check(_libc.umount2(os.fsencode(point), _MNT_FORCE), "umount -f", point, but=_EBUSY)


def main() -> int:
    try:
        cut(sys.argv[2:])
    except OSError as problem:
        sys.stderr.write(f"requests queued on {problem.filename or 'a mount'} could not be cut off: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
