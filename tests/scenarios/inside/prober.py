"""In a guest: a rival that tries to lock whole files, 0-EOF, in a tight loop, and counts.

    prober.py SECONDS FILE...      tries for so long, or until its standard input ends when SECONDS is 0

Prints ``tried COUNT`` each second, ``got FILE CLOCK`` whenever it got one (and lets it go at once), and at the end
``over COUNT WINS``. Files that are not there yet, or no more, are tried again.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time

F_OFD_SETLK = 37
#: seconds after a success, so that an honest claim gets its turn
PAUSE = 0.05
FLOCK = struct.Struct("hhqqi4x")


def once(fd: int) -> bool:
    """Try to lock the whole file; whether it was free."""
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    return True


def main() -> None:
    seconds, paths = float(sys.argv[1]), sys.argv[2:]
    end = time.monotonic() + seconds if seconds else float("inf")
    told = time.monotonic()
    tries = wins = 0
    files = [(path, os.open(path, os.O_RDWR | os.O_DIRECT)) for path in paths]
    print("ready", flush=True)
    while (now := time.monotonic()) < end:
        for path, fd in files:
            tries += 1
            if once(fd):
                wins += 1
                print(f"got {path} {time.time():.3f}", flush=True)
                time.sleep(PAUSE)
        if now - told >= 1:
            told = now
            print(f"tried {tries}", flush=True)
        if not seconds and select.select([0], [], [], 0)[0] and not os.read(0, 64):
            break
    print(f"over {tries} {wins}", flush=True)


if __name__ == "__main__":
    main()
