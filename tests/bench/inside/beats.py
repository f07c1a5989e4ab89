"""In a guest: when the heart of a VM beats, by the guest's clock: ``beats.py FILE``, the file of its serial line.

Prints a moment for each mark that is written to the file from now on: when it was written, not when we got to see it,
which may be much later in a guest whose only processor has a QEMU to end.
"""

from __future__ import annotations

import ctypes
import os
import sys

IN_MODIFY = 2


def main() -> None:
    path = sys.argv[1]
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(path), IN_MODIFY) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    known = os.stat(path).st_size
    while os.read(watch, 4096):
        found = os.stat(path)
        for _ in range(found.st_size - known):
            print(f"{found.st_mtime:.4f}", flush=True)
        known = found.st_size


if __name__ == "__main__":
    main()
