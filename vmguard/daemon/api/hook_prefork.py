"""Keep processes of the hook ready for the next start; vmguard/hook/prefork.py says what they do."""

from __future__ import annotations

import logging
import os

from vmguard.adapters.linux.spawn import ended, environment, python, spawn
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.api")

#: interval of the checks whether they still run: while they do not, a start takes some milliseconds longer
_CHECK_INTERVAL_S = 10.0


class HookPrefork:
    """The process that starts the others. It ends when the daemon does, however that happens."""

    def __init__(self, loop: Loop, run_dir: str, count: int) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._count = count
        self._pid = 0
        #: our end of its stdin: closed by the kernel when the daemon dies
        self._stdin = -1

    def start(self) -> None:
        if self._count > 0:
            self._check()

    def _check(self) -> None:
        """Start the process if it does not run."""
        self._loop.call_in(_CHECK_INTERVAL_S, self._check)
        if self._pid and ended(self._pid) is None:
            return
        if self._pid:
            log.warning("the processes that stand by for starts had ended; started again")
            os.close(self._stdin)
            self._pid = 0
        theirs, self._stdin = os.pipe2(os.O_CLOEXEC)
        try:
            folder = os.path.join(self._run_dir, "standby")
            words = python("vmguard.hook.prefork", [folder, str(self._count)])
            self._pid = spawn(words, stdin=theirs, env=environment(VMGUARD_RUN_DIR=self._run_dir))
        except OSError as problem:
            os.close(self._stdin)
            log.warning("no processes can stand by for starts, which take some milliseconds longer: %s", problem)
        finally:
            os.close(theirs)
