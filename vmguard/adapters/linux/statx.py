"""statx(2), for what os.stat cannot do: ask the server anew, whatever attributes are cached; when a file was made.

AT_STATX_FORCE_SYNC makes an NFS client send GETATTR (fs/nfs/inode.c, nfs_getattr). It needs no OPEN, so that it is
answered in a grace period, too, when a server refuses every new open.
"""

from __future__ import annotations

import ctypes

from vmguard.adapters.linux.libc import check, libc

_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_SIZE = 0x200
_STATX_BTIME = 0x800
#: of struct statx (linux/stat.h)
_STRUCT_BYTES = 256
_SIZE_AT, _BTIME_AT = 40, 80


def fresh_size(fd: int) -> int:
    """Return the size of a file that is open, or held (O_PATH), as its server has it now; may hang. Raises OSError."""
    buffer = ctypes.create_string_buffer(_STRUCT_BYTES)
    check(libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_SIZE, buffer), "statx", "")
    return int.from_bytes(buffer.raw[_SIZE_AT : _SIZE_AT + 8], "little")


def birth_time(fd: int) -> float:
    """Return when an open file was made, in seconds since the epoch; 0 where its file system does not tell."""
    buffer = ctypes.create_string_buffer(_STRUCT_BYTES)
    try:
        check(libc.statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer), "statx", "")
    except OSError:
        return 0.0
    if not int.from_bytes(buffer.raw[:4], "little") & _STATX_BTIME:
        return 0.0
    seconds = int.from_bytes(buffer.raw[_BTIME_AT : _BTIME_AT + 8], "little", signed=True)
    return seconds + int.from_bytes(buffer.raw[_BTIME_AT + 8 : _BTIME_AT + 12], "little") / 1e9
