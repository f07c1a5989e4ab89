"""Another user for file system calls alone, in one thread: what setfsuid(2) is there for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vmguard.adapters.linux.libc import libc


@contextlib.contextmanager
def file_system_user(uid: int, gid: int) -> Iterator[None]:
    """Touch files as another user, in this thread, for the length of a ``with`` block. For root."""
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(0)
