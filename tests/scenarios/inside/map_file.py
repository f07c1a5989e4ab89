"""Map a file when a line on stdin says so, or touch a page of it that is mapped: ``map_file.py map|touch FILE``."""

from __future__ import annotations

import ctypes
import os
import sys

_READ, _SHARED = 1, 1


def main() -> None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long]
    what, path = sys.argv[1:]
    fd = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, 1 << 20, _READ, _SHARED, fd, 0) if what == "touch" else 0
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    if what == "map":
        libc.mmap(None, 4096, _READ, _SHARED, fd, 0)
    else:
        ctypes.string_at(address, 1)
    print("came back", flush=True)


if __name__ == "__main__":
    main()
