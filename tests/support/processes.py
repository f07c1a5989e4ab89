"""Processes that end with the test that started them, also when its set-up fails half way or its process is killed.

::

    self.process = track(subprocess.Popen(...))         # a process without children of its own
    self.process = Supervised(command, output=log)      # a daemon: whatever it starts ends with it

Both are known here from their start on. Fixtures in tests/conftest.py end what a test, a module or a run has left.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
#: for a start on a very busy machine, and for the end of processes that were killed
_PATIENCE_S = 20.0


class _Endable(Protocol):
    def end(self) -> bool:
        """End it with certainty; return whether there was anything left to end."""


#: with numbers that rise: those of a process's start, or of the fixture whose life it has
_started: list[tuple[int, _Endable]] = []
_numbers = itertools.count()
_P = TypeVar("_P", bound="subprocess.Popen[Any]")


class _Tracked:
    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process = process

    def end(self) -> bool:
        process = self._process
        left = process.poll() is None
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None and not pipe.closed:
                _close(pipe)
        process.wait(_PATIENCE_S)
        return left


def _close(pipe: IO[Any]) -> None:
    try:
        pipe.close()
    except OSError:  # what was still to be written has no reader any more
        pass


def track(process: _P, since: int | None = None) -> _P:
    """Have a process killed when the test ends, if it lives then. Returns the process.

    ``since``: the mark of the fixture that it belongs to, when a test only starts it anew for that one.
    """
    _started.append((next(_numbers) if since is None else since, _Tracked(process)))
    return process


class Supervised:
    """A process, and all that descend from it. Behaves like a Popen without pipes; ``end`` ends the whole tree.

    Its standard input is /dev/null. ``output`` gets standard output and standard error. Raises OSError if the command
    cannot be started.
    """

    def __init__(
        self, words: Sequence[str], output: IO[bytes], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        _started.append((next(_numbers), self))
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._report, report = os.pipe()
        self._said = b""
        self.returncode: int | None = None
        try:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-IS", str(_SUPERVISOR), str(report)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=cwd,
                pass_fds=[report],
                start_new_session=True,  # a Ctrl-C is for the test
            )
        finally:
            os.close(report)
        try:
            self.pid = self._begin(words, os.environ if env is None else env)
        except BaseException:
            self.end()
            raise

    def _begin(self, words: Sequence[str], env: Mapping[str, str]) -> int:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        stdin = self._supervisor.stdin.fileno()
        os.write(stdin, json.dumps({"words": list(words), "env": dict(env)}).encode() + b"\n")
        pid = self._line(_PATIENCE_S)
        if pid is None:
            raise TimeoutError("the supervisor does not start its command")
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), words[0])
        self._pidfd = os.pidfd_open(pid)  # nobody reaps it before the next line
        os.write(stdin, b"\n")
        return pid

    def _line(self, seconds: float | None) -> int | None:
        """Return the supervisor's next number; None if there is none in time. Raises EOFError when it is gone."""
        while b"\n" not in self._said:
            if not select.select([self._report], [], [], seconds)[0]:
                return None
            said = os.read(self._report, 100)
            if not said:
                raise EOFError("the supervisor is gone")
            self._said += said
        line, _, self._said = self._said.partition(b"\n")
        return int(line)

    def poll(self) -> int | None:
        """Return the command's exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._line(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command, not for its descendants. Raises TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._line(timeout)
            if self.returncode is None:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end(self) -> bool:
        """Kill the command and everything that descends from it, and wait for that. Returns whether it still ran."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return False
        try:
            left = self._pidfd >= 0 and self.poll() is None
        except EOFError:
            left = False
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        supervisor.wait(_PATIENCE_S)
        for fd in (self._pidfd, self._report):
            if fd >= 0:
                os.close(fd)
        if self.returncode is None:
            self.returncode = -signal.SIGKILL
        return left


def mark() -> int:
    """Return a mark for ``end_since``: what is started from here on."""
    return next(_numbers)


def end_since(mark: int) -> int:
    """End everything that was started since the mark, the newest first. Returns how many of these still ran."""
    concerned = [process for number, process in _started if number >= mark]
    _started[:] = [(number, process) for number, process in _started if number < mark]
    return sum(process.end() for process in reversed(concerned))


atexit.register(end_since, 0)
