"""Find out what stands in the way of a lock. Asks the share and /proc; only in a process that may be killed."""

from __future__ import annotations

import os

from vmguard.adapters.linux import mounts, proc
from vmguard.adapters.storage import files, owner_record
from vmguard.core.locks import record_match
from vmguard.core.locks.refusal import Holder
from vmguard.core.words import printable


def describe(path: str, fd: int, folder: str) -> Holder:
    """Learn all there is to know about the holder of a disk, through a descriptor of it."""
    info = os.fstat(fd)
    owner, problem, doubt = None, "", ""
    if folder:
        try:
            real = files.real_path(fd, path)
            owner = owner_record.read_owner(real, folder, info.st_ino)
            if owner is not None:
                from vmguard.adapters.linux import statx  # ctypes: not on the path of a start that succeeds

                born = statx.birth_time(fd)
                doubt = record_match.doubt(owner, real, born)
                problem = record_match.why_another(owner, real, born)
                owner = None if problem else owner
        except OSError as error:
            problem = f"its owner record cannot be read: {error.strerror}"
    mount = mounts.mount_of_id(proc.fdinfo("self", fd).mount_id)
    lease = mounts.lease_time(mount.point) if mount is not None and mount.type == "nfs4" else None
    return Holder(owner=owner, record_problem=problem, local_users=_local_lockers(fd), lease=lease, doubt=doubt)


def _local_lockers(fd: int) -> tuple[str, ...]:
    """Return the processes of this host whose descriptor of that file carries a lock."""
    users = proc.users_of({proc.own_key(fd)}, exclude={os.getpid(), os.getppid()})
    return tuple(sorted({f"{printable(proc.name(user.pid))} (pid {user.pid})" for user in users if user.info.locks}))
