"""What locks on a share are worth, tried with a scratch file. It may hang: only in a child that can be killed."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Iterator
from typing import Any

from vmguard.adapters import ofd, probe
from vmguard.core.ranges import WHOLE, Range
from vmguard.doctor.look_mount import lock_requests
from vmguard.errors import LockConflict, LockUnavailable

_PREFIX = ".vmguard-doctor-"
#: freed and locked again by another, in the middle of what is locked
_PART: Range = (100, 200)
_NOBODY = 65534


def attempt(folder: str, point: str, seek: bool, user: str) -> dict[str, Any]:
    """The facts of ScratchFacts as far as they were reached. ``user`` tries where root may not."""
    try:
        return _attempt(folder, point, seek, "")
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EPERM) or os.geteuid() != 0:
            return _error(problem)
    try:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)
        return _attempt(folder, point, seek, user)
    except KeyError:
        return {
            "error": ["EACCES", f"root may not write there, and this host has no user {user}"],
            "squashed": "nobody",
        }
    except OSError as problem:
        return {**_error(problem), "squashed": user}


def _error(problem: OSError) -> dict[str, Any]:
    name = errno.errorcode.get(problem.errno or 0, str(problem.errno))
    return {"error": [name, f"{problem.strerror} ({name})"]}


def _attempt(folder: str, point: str, seek: bool, squashed: str) -> dict[str, Any]:
    with _scratch(folder, "lock") as path:
        owner = os.stat(path).st_uid
        if not squashed and os.geteuid() == 0 and owner != 0:
            squashed = "nobody" if owner == _NOBODY else f"user {owner}"
        facts: dict[str, Any] = {"squashed": squashed, **_locks(path, point, seek)}
    if facts["locked"]:
        with _scratch(folder, "plain") as path:
            facts["delegated"] = _stays_here(path, point)
    return facts


@contextlib.contextmanager
def _scratch(folder: str, what: str) -> Iterator[str]:
    """A new file there, for a moment; what an attempt that was killed left behind goes, too."""
    path = os.path.join(folder, f"{_PREFIX}{os.uname().nodename}-{what}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        yield path
    finally:
        os.unlink(path)


def _open(path: str, direct: bool) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | (os.O_DIRECT if direct else 0))
    except OSError as problem:
        if not direct or problem.errno != errno.EINVAL:
            raise
        return os.open(path, flags)  # a file system without O_DIRECT


def _locks(path: str, point: str, seek: bool) -> dict[str, Any]:
    """Lock, conflict, a part freed, the server's own answer. As a claim does it: opened with O_DIRECT."""
    before = lock_requests(point)
    mine, other = _open(path, True), _open(path, True)
    try:
        if not _lock(mine, path, ofd.WRITE, WHOLE):
            return {"locked": False}
        facts: dict[str, Any] = {"locked": True, "answer": probe.ask(mine, seek)}
        facts["conflict"] = not _lock(other, path, ofd.WRITE, (0, 1))
        ofd.unlock(mine, _PART)
        freed = _lock(other, path, ofd.WRITE, _PART)
        facts["sub_range"] = freed and not _lock(other, path, ofd.WRITE, (0, 1))
    finally:
        os.close(other)
        os.close(mine)
    after = lock_requests(point)
    facts["lock_requests"] = None if before is None or after is None else after - before
    return facts


def _lock(fd: int, path: str, kind: int, piece: Range) -> bool:
    try:
        ofd.lock(fd, path, kind, piece)
    except (LockConflict, LockUnavailable):
        return False
    return True


def _stays_here(path: str, point: str) -> bool | None:
    """Whether a lock is kept in this client: a write delegation, for which a plain open is enough."""
    fd = _open(path, False)
    try:
        before = lock_requests(point)
        _lock(fd, path, ofd.WRITE, WHOLE)
        after = lock_requests(point)
    finally:
        os.close(fd)
    return None if before is None or after is None else after == before
