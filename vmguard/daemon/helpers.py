"""Processes that do for the daemon what may hang beyond any signal: started, followed, never waited for."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import vmguard
from vmguard.adapters import clock
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
    with os.fdopen(os.memfd_create("vmguard-stdin", os.MFD_CLOEXEC), "w+b") as stream:  # no disk: it may be full
        stream.write(json.dumps(stdin).encode())
        stream.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _CODE.format(module), _ROOT, *words],
            stdin=stream,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=fds,
        )
    _follow(loop, process, done, clock.boottime() + seconds, _FIRST_LOOK)


def _follow(loop: Loop, process: subprocess.Popen[bytes], done: Done, deadline: float, pause: float) -> None:
    status = process.poll()
    if status is None:
        if clock.boottime() >= deadline:
            process.kill()
            deadline = float("inf")
        again = min(2 * pause, _LAST_LOOK)
        loop.call_in(pause, lambda: _follow(loop, process, done, deadline, again))
        return
    if process.stderr is not None:
        with process.stderr:
            for line in process.stderr.read(4096).decode(errors="replace").splitlines():
                log.warning("%s", line)
    done(status)
