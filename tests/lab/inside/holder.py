"""Keep a file open in a guest and do with it what standard input says, one line each; see ../locker.py.

    lock START LENGTH    exclusive OFD lock, not waiting      read OFFSET      512 bytes
    unlock START LENGTH                                       write OFFSET X   512 bytes, each X
Answers "NUMBER ok DETAIL" or "NUMBER ERRNO", counted from 1; number 0 is the open itself.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import struct
import sys

F_OFD_SETLK = 37
FLOCK = struct.Struct("hhqqi4x")
SECTOR = 512
FLAGS = {"rw": os.O_RDWR, "ro": os.O_RDONLY, "direct": os.O_DIRECT, "create": os.O_CREAT}


def act(fd: int, words: list[str]) -> str:
    name, start = words[0], int(words[1])
    if name in ("lock", "unlock"):
        kind = fcntl.F_WRLCK if name == "lock" else fcntl.F_UNLCK
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, int(words[2]), 0))
        return ""
    buffer = mmap.mmap(-1, SECTOR)  # O_DIRECT wants an aligned buffer
    if name == "read":
        count = os.preadv(fd, [buffer], start)
        return buffer[:count].hex()
    assert name == "write"
    buffer[:] = words[2].encode() * SECTOR
    return str(os.pwritev(fd, [buffer], start))


def main() -> None:
    path, flags = sys.argv[1:]
    mode = 0
    for flag in flags.split(","):
        mode |= FLAGS[flag]
    fd = -1
    for number, line in enumerate(itertools.chain([""], sys.stdin)):
        try:
            if number == 0:
                fd = os.open(path, mode, 0o644)
                answer = "ok "
            else:
                answer = f"ok {act(fd, line.split())}"
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        print(number, answer, flush=True)


if __name__ == "__main__":
    main()
