"""In a guest, in QEMU's place: opens its disk anew again and again, as QEMU does to change how it uses it.

    churn.py ROUNDS PID-FILE DISK -uuid UUID      each round waits until the lock has moved to the new description
    churn.py ROUNDS careless DISK                 the negative control: it moves the lock itself, in one step

Prints ``round N`` now and then, ``done SECONDS`` at the end, and lives on until its standard input ends. Every fifth
round the disk is opened for reading only, and shared, for a moment.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time

F_OFD_SETLK = 37
FLOCK = struct.Struct("hhqqi4x")
PATIENCE = 20.0
#: what a claim leaves of a disk that is locked from 0 to EOF: bytes 0, 2-99 and 300-EOF
PIECES = 3


def set_lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


def locks(fd: int) -> list[str]:
    """The locks of this very description: WRITE or READ."""
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return [line.split()[4] for line in lines if line.startswith("lock:")]


def wait_locked(fd: int, kind: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := locks(fd)) != [kind] * PIECES:
        if time.monotonic() > deadline:
            sys.exit(f"the lock has not come to descriptor {fd}: {found}")
        time.sleep(0.002)


def guarded(rounds: int, path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    wait_locked(fd, "WRITE")
    for number in range(1, rounds + 1):
        kind = "READ" if number % 5 == 0 else "WRITE"
        new = os.open(path, os.O_DIRECT | (os.O_RDWR if kind == "WRITE" else os.O_RDONLY))
        os.close(fd)
        fd = new
        wait_locked(fd, kind)
        if number % 25 == 0:
            print(f"round {number}", flush=True)


def careless(rounds: int, path: str) -> None:
    fds = [os.open(path, os.O_RDWR | os.O_DIRECT) for _ in range(2)]
    set_lock(fds[0], fcntl.F_WRLCK)
    for _ in range(rounds):
        set_lock(fds[0], fcntl.F_UNLCK)
        while True:
            try:
                set_lock(fds[1], fcntl.F_WRLCK)
                break
            except BlockingIOError:
                pass
        fds.reverse()


def main() -> None:
    rounds, where, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if where != "careless":
        with open(where, "w") as stream:
            print(os.getpid(), file=stream)
    began = time.monotonic()
    (careless if where == "careless" else guarded)(rounds, path)
    print(f"done {time.monotonic() - began:.1f}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
