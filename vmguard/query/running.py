"""Whether this host's daemon runs, found without a word to it: a connection to systemd's socket would start it."""

from __future__ import annotations

import os
import time

from vmguard.adapters.linux import ofd
from vmguard.errors import DaemonError

#: the file that a running daemon has locked (vmguard/daemon/main.py)
LOCK = "daemon.lock"
#: a daemon that restarts is back within this time
_RESTART_S = 1.0
_LOOK_S = 0.05


def require(run_dir: str, patience: float = _RESTART_S) -> None:
    """Raise DaemonError unless a daemon runs with this directory, or will within ``patience`` seconds.

    Who may not look there is told so by the socket.
    """
    deadline = time.monotonic() + patience
    while not _is_locked(os.path.join(run_dir, LOCK)):
        if time.monotonic() >= deadline:
            raise DaemonError("the vmguard daemon does not run", "systemctl start vmguard")
        time.sleep(_LOOK_S)


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return ofd.posix_holder(fd) != 0
    finally:
        os.close(fd)
