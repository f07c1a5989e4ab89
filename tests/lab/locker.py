"""A file held open in a guest, to be locked, read and written from the test; the answers are errno names."""

from __future__ import annotations

from tests.lab.channel import Job

WAIT = 10.0


class Locker:
    """One open file description in a guest.

        disk = a.locker("/srv/vm/disk.raw")
        disk.lock()             "ok", or "EAGAIN" when somebody else holds it
        disk.write(512, "A")    "ok", or "EIO" when the lock was lost
        disk.read(512)          "ok", or "EIO"
        disk.close()            ends the process, and with it the lock

    Each call waits `timeout` seconds (10) and then raises GuestTimeout; the answer to a call that timed out may be
    asked for later with answer(). ask() sends without waiting.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._sent = 0
        self.opened = self.answer(0)

    def lock(self, start: int = 0, length: int = 0, timeout: float = WAIT) -> str:
        """Take an exclusive lock without waiting; length 0 reaches to the end of the file."""
        return self.answer(self.ask(f"lock {start} {length}"), timeout)

    def unlock(self, start: int = 0, length: int = 0, timeout: float = WAIT) -> str:
        return self.answer(self.ask(f"unlock {start} {length}"), timeout)

    def read(self, offset: int = 0, timeout: float = WAIT) -> str:
        return self.answer(self.ask(f"read {offset}"), timeout)

    def write(self, offset: int = 0, letter: str = "x", timeout: float = WAIT) -> str:
        """Write a letter 512 times."""
        return self.answer(self.ask(f"write {offset} {letter}"), timeout)

    def ask(self, line: str) -> int:
        """Send an order; return its number, for answer()."""
        self._sent += 1
        self.job.send(f"{line}\n".encode())
        return self._sent

    def answer(self, number: int, timeout: float = WAIT) -> str:
        return self.job.wait_for(rf"^{number} (\w+)", timeout)[1]

    def close(self) -> None:
        self.job.kill()
        self.job.wait(WAIT)
