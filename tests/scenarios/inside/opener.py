"""In a guest, in QEMU's place: opens and closes files as it is told.

    opener.py PID-FILE -uuid UUID       orders on standard input: ``open PATH``, ``anew PATH``, ``close PATH``

``anew`` opens a file again before it closes the old descriptor, as QEMU does. Each order is answered by a line
``done N``; it lives until its standard input ends.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    files: dict[str, int] = {}
    with open(sys.argv[1], "w") as stream:
        print(os.getpid(), file=stream)
    for number, line in enumerate(sys.stdin, 1):
        order, path = line.split()
        before = files.pop(path, -1)
        if order != "close":
            files[path] = os.open(path, os.O_RDWR | os.O_DIRECT)
        if before >= 0:
            os.close(before)
        print(f"done {number}", flush=True)


if __name__ == "__main__":
    main()
