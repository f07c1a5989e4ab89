"""One line for the task log while a start waits for a lock: who has it, and how long the start goes on trying.

Imported only by a start that waits.
"""

from __future__ import annotations

from vmguard.core.locks.refusal import Holder, reader_words
from vmguard.core.words import printable


def of(path: str, fd: int, folder: str, left: float) -> str:
    """Return the line for an open file that is locked; it asks the share. ``folder``: of the owner records."""
    from vmguard.adapters.storage import lock_holder

    return line(path, lock_holder.describe(path, fd, folder), left)


def line(path: str, holder: Holder, left: float) -> str:
    """Return the line; ``left``: seconds for which the lock is still tried."""
    return f"waiting for disk {printable(path)}: locked by {_who(holder)}; trying for {left:.0f} s more"


def _who(holder: Holder) -> str:
    owner = holder.owner
    if holder.is_reader:
        return reader_words(holder.local_users)
    if holder.local_users:
        return "a process of this host: " + ", ".join(holder.local_users)
    if owner is None or owner.released:
        return "somebody who does not use vmguard"
    lease = f"; if that host is dead, {holder.lease:.0f} s after its last sign of life" if holder.lease else ""
    return f"host {printable(owner.host)} for VM '{printable(owner.vm)}' since {owner.claimed}{lease}"
