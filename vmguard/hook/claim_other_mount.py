"""The claim of a file on a mount whose locks are not proven to keep other hosts out. Imported only for such a file."""

from __future__ import annotations

from vmguard.adapters.linux import mounts, ofd
from vmguard.core.locks.plan import EXCLUSIVE, NETWORK, OTHER_MOUNT
from vmguard.errors import LockConflict, LockUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.core.locks.plan import PlannedFile
    from vmguard.protocol.messages import ClaimPolicy

_BYTE_OF_NOBODY = (1 << 62, 1)
_MOVE = "move it to NFSv4.2, or accept it: policy.other_mounts: warn in /etc/vmguard/vmguard.yaml"


def judge(plan: PlannedFile, fd: int, mount: mounts.Mount, policy: ClaimPolicy, warnings: list[str]) -> bool:
    """Return whether a file on a mount of the kind OTHER is to be locked, for what that is worth.

    Raise LockUnavailable if the policy refuses it.
    """
    path = plan.path
    is_nfs, is_smb = mount.is_nfs, mount.type in mounts.SMB_TYPES
    why = mounts.why_other(mount)
    if plan.mode == EXCLUSIVE:
        actions = [policy.unsafe_mounts if is_nfs else policy.for_kind(OTHER_MOUNT)]
        if is_smb:
            actions.append(policy.for_kind(NETWORK))  # which decided about SMB before there was a policy for mounts
        if "refuse" in actions:
            hint = "mount it with vers=4.2,hard" if is_nfs else _MOVE
            raise LockUnavailable(path, f"disk {path} cannot be guarded: {why}", hint)
        text = why if is_nfs else f"{plan.source} ({path}) is not guarded against other hosts: {why}"
        if text not in warnings:
            warnings.append(text)
    elif is_nfs and not mounts.keeps_locks_here(mount):
        return False  # NFSv3: the lock would prove nothing, but lockd may refuse it, or the server keep it for ever
    return not is_smb and _can_lock(plan.path, fd)


def _can_lock(path: str, fd: int) -> bool:
    """Return whether the file system knows byte-range locks at all. Tried with a byte that nobody uses."""
    try:
        ofd.lock(fd, path, ofd.READ, _BYTE_OF_NOBODY)
        ofd.unlock(fd, _BYTE_OF_NOBODY)
    except LockConflict:
        return True
    except LockUnavailable:
        return False
    return True
