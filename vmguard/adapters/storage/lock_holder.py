"""Find out what stands in the way of a lock. Asks the share and /proc; only in a process that may be killed."""

from __future__ import annotations

import os

from vmguard.adapters.linux import clock, mounts, mountstats, ofd, proc
from vmguard.adapters.storage import files, owner_record
from vmguard.core.locks import record_match
from vmguard.core.locks.ranges import WHOLE, Range
from vmguard.core.locks.refusal import UNSEEN, Holder
from vmguard.core.words import printable

#: for the search for processes, and how many of them are named
_SEARCH_S = 2.0
_MAX_NAMED = 5


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
            elif owner_record.is_damaged(real, folder, info.st_ino):
                problem = "its owner record is damaged, no claim in it can be read"
        except OSError as error:
            problem = f"its owner record cannot be read: {error.strerror}"
    mount = mounts.mount_of_id(proc.fdinfo("self", fd).mount_id)
    lease = mountstats.lease_time(mount.point) if mount is not None and mount.type == "nfs4" else None
    lockers = _local_lockers(fd)
    if lockers == (UNSEEN,) and owner is not None and not owner.released:
        lockers = ()  # on the server of a share, its nfsd holds the locks of other hosts
    return Holder(owner, problem, lockers, lease, doubt, _shared(fd))


def _shared(fd: int) -> Range | None:
    """Return the bytes of a shared lock that is in the way; None if an exclusive one is, or none."""
    if ofd.conflict(fd, ofd.READ, WHOLE) is not None:
        return None
    found = ofd.conflict(fd, ofd.WRITE, WHOLE)
    return None if found is None else found.piece


def _local_lockers(fd: int) -> tuple[str, ...]:
    """Return the processes of this host whose descriptor of that file carries a lock.

    A lock may live where no process has it open: its descriptor is on its way through a socket.
    """
    key, names = proc.own_key(fd), _user_names()
    found: list[str] = []
    until = clock.boottime() + _SEARCH_S
    for pid in proc.pids():
        if pid in (os.getpid(), os.getppid()):
            continue
        if len(found) == _MAX_NAMED or clock.boottime() > until:
            break
        if any(user.key == key and user.info.locks for user in proc.open_files(pid, {key[1]})):
            uid = proc.user(pid)
            found.append(f"{printable(proc.name(pid))} (pid {pid}, user {names.get(uid, uid)})")
    return tuple(sorted(found)) or ((UNSEEN,) if proc.has_locks(key) and not _has_locks_of_ours(key) else ())


def _has_locks_of_ours(key: proc.Key) -> bool:
    """Return whether this claim has a part of the file locked: the kernel does not tell whose a lock is."""
    ours = (os.getpid(), os.getppid())
    return any(user.key == key and user.info.locks for pid in ours for user in proc.open_files(pid, {key[1]}))


def _user_names() -> dict[int, str]:
    """Return the users of /etc/passwd: to ask for one (NSS) could ask the network, and hang."""
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as lines:
            rows = [line.split(":") for line in lines]
    except OSError:
        return {}
    return {int(row[2]): row[0] for row in reversed(rows) if len(row) > 2 and row[2].isdigit()}
