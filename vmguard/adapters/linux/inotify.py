"""Report when a process of this host opens a guarded file: as little of inotify(7) as that needs.

The events are the local kernel's own: they come without any request to the server. Adding a watch looks the file up
and may hang on NFS, so it belongs in a worker.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from vmguard.adapters.linux.libc import check, libc

IN_OPEN = 0x20
#: the watch of an event when the kernel's queue was full and events are missing (IN_Q_OVERFLOW)
OVERFLOW = -1
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC
_EVENT = struct.Struct("iIII")


class Inotify:
    """One inotify instance. ``add`` may be called from a worker, the rest belongs to the loop."""

    def __init__(self) -> None:
        self.fd = check(int(libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)), "inotify_init1")

    def add(self, path: str) -> int:
        """Watch a file for opens; return the watch's number. Raises OSError."""
        return check(int(libc.inotify_add_watch(self.fd, os.fsencode(path), IN_OPEN)), "inotify_add_watch")

    def remove(self, watch: int) -> None:
        """Forget a watch; one that is gone already is no error."""
        libc.inotify_rm_watch(self.fd, watch)

    def events(self) -> Iterator[int]:
        """Yield the watches with events since the last call."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return
        at = 0
        while at + _EVENT.size <= len(data):
            watch, _mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            yield watch

    def close(self) -> None:
        os.close(self.fd)
