"""Run operations that may block uninterruptibly in child processes; poll the children, never wait for them."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from vmguard.adapters.linux.spawn import ended, python, spawn
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.runtime")

#: interval of the polls of a child: short at first
_FIRST_POLL_S = 0.02
#: the interval that it grows to
_LAST_POLL_S = 0.5

Done = Callable[[int], None]


def start(
    loop: Loop,
    module: str,
    done: Done,
    words: Sequence[str] = (),
    stdin: Any = None,
    fds: Sequence[int] = (),
    seconds: float = float("inf"),
) -> None:
    """Run ``vmguard.jobs.MODULE`` in a child process; ``done`` gets its exit status in the loop.

    ``words`` are its arguments, ``stdin`` is a value that it reads as JSON, ``fds`` are descriptors that it inherits.
    The child gets SIGKILL after ``seconds``. Its stderr goes to the log. Raises OSError when it cannot be started.
    """
    command = python(f"vmguard.jobs.{module}", words)
    said, says = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with os.fdopen(os.memfd_create("vmguard-stdin", os.MFD_CLOEXEC), "w+b") as stream:  # no disk: it may be full
            stream.write(json.dumps(stdin).encode())
            stream.seek(0)
            pid = spawn(command, fds, stdin=stream.fileno(), stderr=says)
    except OSError:
        os.close(said)
        raise
    finally:
        os.close(says)
    _follow(loop, pid, said, done, loop.now() + seconds, _FIRST_POLL_S)


def _follow(loop: Loop, pid: int, said: int, done: Done, deadline: float, pause: float) -> None:
    status = ended(pid)
    if status is None:
        if loop.now() >= deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        again = min(2 * pause, _LAST_POLL_S)
        loop.call_in(pause, functools.partial(_follow, loop, pid, said, done, deadline, again))
        return
    try:
        for line in filter(None, os.read(said, 4096).decode(errors="replace").split("\n")):
            log.warning("%s", line)
    except BlockingIOError:
        pass  # a child of its own still has the other end
    finally:
        os.close(said)
    done(status)
