"""The socket for readers: members of one group may ask the daemon there what it guards, and change nothing.

It is no socket of systemd's: the daemon makes it itself, so that no question starts a daemon that an admin has stopped.
It lies beside the daemon's folder, which is root's alone.
"""

from __future__ import annotations

import grp
import os
import time

from vmguard.errors import DaemonError, DaemonForbidden
from vmguard.protocol import wire

#: connections that the kernel queues; a reader who comes then waits
BACKLOG = 64
#: a daemon that restarts is back within this time
_RESTART_S = 1.0
_LOOK_S = 0.05


def socket_path(run_dir: str) -> str:
    """Return the path of the socket for the readers of a daemon."""
    return f"{run_dir}-read.sock"


def connect(run_dir: str, timeout: float, forbidden: DaemonForbidden) -> wire.Connection:
    """Connect a user who may not command the daemon.

    ``forbidden``: how it has turned him away. Raises DaemonForbidden, which says who may ask, or DaemonError when
    there is no daemon.
    """
    path = socket_path(run_dir)
    deadline = time.monotonic() + _RESTART_S
    while True:
        try:
            return wire.connect(path, timeout)
        except DaemonForbidden:
            raise DaemonForbidden(forbidden.message, _who_may(path)) from None
        except DaemonError as problem:
            if not os.path.exists(path):
                raise forbidden from None
            if time.monotonic() >= deadline:
                raise DaemonError(problem.message, problem.hint) from None
        time.sleep(_LOOK_S)


def _who_may(path: str) -> str:
    """Say who may ask, by the group that the socket belongs to."""
    try:
        group = os.stat(path).st_gid
        name = grp.getgrgid(group).gr_name if group else ""
    except (OSError, KeyError):
        name = ""
    if not name:
        return "only root may"
    return f"only root and the members of group {name} may: usermod -aG {name} USER, who logs in anew then"
