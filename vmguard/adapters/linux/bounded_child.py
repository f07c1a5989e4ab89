"""Work that may hang on the share, done in a child that can be killed: for the command line.

A thread would not do: Python waits for its threads at exit, and a process in an NFS call ends only by SIGKILL.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from typing import Any

from vmguard.adapters.linux import clock
from vmguard.errors import StorageTimeout, VmguardError


class Child:
    """Work under way in a child, with its own deadline. Start all children first, then ask for their results."""

    def __init__(self, work: Callable[[], Any], seconds: float, what: str) -> None:
        self._seconds, self._what = seconds, what
        self._deadline = clock.boottime() + seconds
        self._pipe, write_end = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _child(work, write_end)
        os.close(write_end)

    def result(self) -> Any:
        """Wait for the result.

        Raises StorageTimeout if the child does not end in time, VmguardError with the child's message if it failed.
        """
        try:
            answer = json.loads(_read(self._pipe, self._deadline))
        except TimeoutError:
            os.kill(self._pid, signal.SIGKILL)
            raise StorageTimeout(
                f"the storage did not answer within {self._seconds:.0f} s while {self._what}",
                "the server is down, unreachable, or in the grace period after a reboot",
            ) from None
        except ValueError:
            raise VmguardError(f"the work was ended from outside while {self._what}") from None
        finally:
            os.close(self._pipe)
            os.waitpid(self._pid, os.WNOHANG)
        if "error" in answer:
            raise VmguardError.passed_on(answer["error"], answer["hint"])
        return answer["result"]


def run(work: Callable[[], Any], seconds: float, what: str) -> Any:
    """Do ``work`` in a child within ``seconds``; return its result (JSON can carry it). Raises as Child.result."""
    return Child(work, seconds, what).result()


def _child(work: Callable[[], Any], write_end: int) -> None:
    try:
        try:
            answer = {"result": work()}
        except VmguardError as problem:
            answer = {"error": problem.message, "hint": problem.hint}
        except Exception as problem:
            answer = {"error": VmguardError(f"{type(problem).__name__}: {problem}").message, "hint": ""}
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(write_end, data) :]
    finally:
        os._exit(0)


def _read(fd: int, deadline: float) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while True:
        if not poll.poll(max(0.0, deadline - clock.boottime()) * 1000):
            raise TimeoutError
        piece = os.read(fd, 1 << 16)
        if not piece:
            return data
        data += piece
