"""Processes that do for the daemon what may hang beyond any signal: started, followed, never waited for."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import vmguard
from vmguard.adapters import clock
from vmguard.adapters.spawn import spawn
from vmguard.daemon.loop import Loop

log = logging.getLogger("vmguard.helpers")

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(vmguard.__file__)))
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from vmguard.adapters.{} import main; sys.exit(main())"
#: seconds between two looks at a helper: soon at first, then less often
_FIRST_LOOK, _LAST_LOOK = 0.02, 0.5

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
    """Run ``vmguard.adapters.MODULE`` in a process of its own; ``done`` gets its exit status in the loop.

    It gets SIGKILL after ``seconds``. What it says on stderr goes to the log. Raises OSError when it cannot start.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with os.fdopen(os.memfd_create("vmguard-stdin", os.MFD_CLOEXEC), "w+b") as stream:  # no disk: it may be full
            stream.write(json.dumps(stdin).encode())
            stream.seek(0)
            command = [sys.executable, "-IS", "-c", _CODE.format(module), _ROOT, *words]
            pid = spawn(command, fds, stdin=stream.fileno(), stderr=write_end)
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    _Helper(loop, pid, read_end, done, clock.boottime() + seconds).look()


class _Helper:
    """One of them. Its pid is nobody else's until ``look`` has seen its end."""

    def __init__(self, loop: Loop, pid: int, said: int, done: Done, deadline: float) -> None:
        self._loop = loop
        self._pid = pid
        self._said = said
        self._done = done
        self._deadline = deadline
        self._pause = _FIRST_LOOK

    def look(self) -> None:
        ended, status = os.waitpid(self._pid, os.WNOHANG)
        if not ended:
            if clock.boottime() >= self._deadline:
                os.kill(self._pid, 9)
                self._deadline = float("inf")
            self._loop.call_in(self._pause, self.look)
            self._pause = min(2 * self._pause, _LAST_LOOK)
            return
        with os.fdopen(self._said, "rb", buffering=0) as stream:
            for line in (stream.read(4096) or b"").decode(errors="replace").splitlines():
                log.warning("%s", line)
        self._done(os.waitstatus_to_exitcode(status))
