"""The proof of a claim's locks where something happened to the NFS client between the lock and the start.

The storage may reboot, or this host be cut off for a lease, while the hook does the rest of its work: longer than
usual where the storage answers slowly. The lock can be another host's then, which has read the owner record before
this claim's was in it, and no lock call says so. Whoever has lost a lock gets EIO through its descriptor. Imported only
for such a claim: the client counts whatever can cost a lock (``mountstats.sessions``).
"""

from __future__ import annotations

from vmguard.adapters.linux import mounts, mountstats
from vmguard.adapters.storage.fencing_token import read_token, record_path
from vmguard.adapters.storage.lock_probe import MountProbe
from vmguard.core.words import printable
from vmguard.errors import LockUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmguard.hook.claim_on_share import ClaimedFile

#: rounds of questions until one passes in which nothing happens
_TRIES = 5
_CURE = "start it again: if another host has the disk now, that start says which"


def prove(
    files: list[ClaimedFile],
    folder: str,
    epochs: dict[str, int],
    ask: Callable[[ClaimedFile], str] | None = None,
    sessions: Callable[[set[str]], dict[str, list[bytes]]] = mountstats.sessions,
) -> dict[str, list[bytes]]:
    """Ask the server for each lock, and compare the records; return what the clients had counted before.

    ``folder``: of the owner records. ``epochs``: those that this claim has written, by inode. ``ask`` returns why a
    file's lock is not proven, empty if it is. Raise LockUnavailable when one is not.
    """
    remote = [file for file in files if file.point]
    points = {file.point for file in remote}
    ask = ask or _Asker().ask
    for _ in range(_TRIES):
        counted = sessions(points)
        for file in remote:
            why = ask(file) or _claimed_since(file, folder, epochs)
            if why:
                raise _refusal(file, why)
        if sessions(points) == counted:
            return counted
    raise _refusal(remote[0], "it happens again and again")


class _Asker:
    """Asks for locks as the watchdog does."""

    def __init__(self) -> None:
        versions = {mount.point: mount.option("vers") for mount in mounts.mounts()}
        self._probes = {point: MountProbe(point, version == "4.2") for point, version in versions.items()}

    def ask(self, file: ClaimedFile) -> str:
        probe = self._probes.get(file.point)
        if probe is None:
            return "its share is mounted no more"
        problem, _, asked = probe.probe(file.fd)
        return problem or ("" if asked else "it cannot be asked for")


def _claimed_since(file: ClaimedFile, folder: str, epochs: dict[str, int]) -> str:
    ours = epochs.get(str(file.key[1]))
    if not folder or ours is None:
        return ""
    newest = read_token(record_path(file.real, folder, file.key[1])).epoch
    return f"claimed since: epoch {newest}, ours is {ours}" if newest is not None and newest > ours else ""


def _refusal(file: ClaimedFile, why: str) -> LockUnavailable:
    return LockUnavailable(
        file.plan.path,
        f"the storage of {printable(file.plan.path)} was restarted, or had lost this host, while the VM was being"
        f" started, and the lock is not proven any more: {why}",
        _CURE,
    )
