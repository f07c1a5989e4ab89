"""Refuse, or wait for, a share that is configured but not mounted while a VM's disk lies below its mount point.

What lies there is an old copy on the bare folder, or nothing: a lock on it would guard nothing. Imported only when a
file does not lie on NFS.
"""

from __future__ import annotations

import os
import time

from vmguard.adapters.linux import configured_mounts, mounts
from vmguard.core.words import shell_word
from vmguard.errors import PlanError
from vmguard.hook.vm_to_claim import PROGRESS_INTERVAL_S, boottime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmguard.adapters.linux.configured_mounts import ConfiguredShare
    from vmguard.adapters.linux.mounts import Mount

    #: why a file does not lie on its share, and the cure
    Missing = tuple[str, str]
    Look = Callable[[list[str]], Missing]

_RETRY_S = 0.25


def missing(paths: list[str], table: list[Mount] | None = None) -> Missing:
    """Look at this host's mounts, or at a table just read; return as ``explain``. It may hang with another share."""
    table = list(mounts.mounts()) if table is None else table
    shares = configured_mounts.shares()
    configured_mounts.resolve_points(shares, table)
    return explain(paths, shares, table)


def explain(paths: list[str], shares: list[ConfiguredShare], table: list[Mount]) -> Missing:
    """Return why the first of the files does not lie on its share, and the cure; both empty if all of them do.

    Symbolic links on the way are followed.
    """
    for path in paths if shares else ():
        share = configured_mounts.absent_below(os.path.realpath(path), shares, table)
        if share is not None:
            why = f"{path} lies below {share.point}, where {share.source} is not mounted ({share.file})"
            point, pool = shell_word(share.point), shell_word(share.source.rpartition(" ")[2])
            cure = f"virsh pool-start {pool}" if share.is_pool else f"mount {point}"
            return why, f"{cure}; findmnt {point} shows what is there; a file on the bare folder is not the disk"
    return "", ""


def is_inside_another(paths: list[str], table: list[Mount], shares: list[ConfiguredShare] | None = None) -> bool:
    """Return whether a share is to be mounted between a file on another share and that one's mount point.

    Judged by the text alone, so that a start on a share that answers waits for no other one. ``shares``: those that
    are configured, where they are known.
    """
    known = configured_mounts.shares() if shares is None else shares
    return any(configured_mounts.absent_below(path, known, table) is not None for path in paths)


def refuse(paths: list[str], look: Look = missing) -> None:
    """Raise PlanError if a file lies on the bare folder of a share."""
    why, cure = look(paths)
    if why:
        raise PlanError(why, cure)


def wait(name: str, paths: list[str], seconds: float, say: Callable[[str], None], look: Look = missing) -> None:
    """Wait until all files lie on their shares. Raise PlanError when they do not within ``seconds``."""
    began, next_line = boottime(), 1.0
    while True:
        why, cure = look(paths)
        if not why:
            return
        spent = boottime() - began
        if spent >= seconds:
            raise PlanError(f"VM '{name}' is not started: {why} (waited {spent:.0f} s)", cure)
        if spent >= next_line:
            next_line = spent + PROGRESS_INTERVAL_S
            say(f"waiting for a share: {why}; for {seconds - spent:.0f} s more")
        time.sleep(min(_RETRY_S, seconds - spent))
