"""Keeps processes of the hook standing by for the next start: vmguard/hook/prefork.py says what they do."""

from __future__ import annotations

import logging
import os

from vmguard.adapters.linux.spawn import ended, python, spawn
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.standby")

#: seconds between two looks whether they are still there: until they are again, starts take some milliseconds longer
_LOOK = 10.0


class Standby:
    """The process that keeps the others; it ends when this one does, however that happens."""

    def __init__(self, loop: Loop, run_dir: str, count: int) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._count = count
        self._pid = 0
        #: our end of its stdin: closed by the kernel when we die
        self._leash = -1

    def start(self) -> None:
        if self._count > 0:
            self._look()

    def _look(self) -> None:
        self._loop.call_in(_LOOK, self._look)
        if self._pid and ended(self._pid) is None:
            return
        if self._pid:
            log.warning("the processes that stand by for starts had ended; started again")
            os.close(self._leash)
            self._pid = 0
        theirs, self._leash = os.pipe2(os.O_CLOEXEC)
        try:
            folder = os.path.join(self._run_dir, "standby")
            words = python("vmguard.hook.prefork", [folder, str(self._count)])
            self._pid = spawn(words, stdin=theirs, env={**os.environ, "VMGUARD_RUN_DIR": self._run_dir})
        except OSError as problem:
            os.close(self._leash)
            log.warning("no processes can stand by for starts, which take some milliseconds longer: %s", problem)
        finally:
            os.close(theirs)
