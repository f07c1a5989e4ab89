"""Run another program and wait for it, for the command line: with a deadline, and with nothing of the caller's.

The daemon starts programs with spawn.py, which says why the environment is ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from vmguard.adapters.linux import spawn


class Ended:
    """A program that has ended: its exit status, and what it said."""

    __slots__ = ("err", "out", "status")

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def text(self) -> str:
        """Its standard output, for people."""
        return self.out.decode(errors="replace")


def run(command: Sequence[str], seconds: float, stdin: bytes = b"", mixed: bool = False) -> Ended:
    """Run a program; it is killed after ``seconds``. ``mixed``: its errors come within its output.

    Raises TimeoutError when it was killed, another OSError when it cannot be run.
    """
    errors = subprocess.STDOUT if mixed else subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd="/", env=spawn.environment()
    )
    try:
        out, err = process.communicate(stdin, seconds)
    except subprocess.TimeoutExpired:
        process.kill()  # and it is not waited for, as subprocess.run would: it may hang beyond any signal
        raise TimeoutError(f"{command[0]} did not end within {seconds:.0f} s") from None
    return Ended(process.returncode, out, err or b"")
