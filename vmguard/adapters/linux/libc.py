"""The C library, for system calls that Python does not offer, and the one way to raise their errors."""

from __future__ import annotations

import ctypes
import os

#: keeps errno of its own for each thread (ctypes.get_errno)
libc = ctypes.CDLL(None, use_errno=True)


def oserror(call: str, path: str | None = None) -> OSError:
    """Return the OSError of the call that has just failed; its text names the system call."""
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}", path)


def check(result: int, call: str, path: str | None = None) -> int:
    """Return the result of a system call. Raises OSError when it is negative."""
    if result < 0:
        raise oserror(call, path)
    return result
