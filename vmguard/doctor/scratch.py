"""What locks on a share are worth, tried with a scratch file. It may hang: only in a child that can be killed."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import zlib
from collections.abc import Iterator
from typing import Any

from vmguard.adapters.linux import ofd
from vmguard.adapters.storage import lock_probe
from vmguard.core.locks.ranges import WHOLE, Range
from vmguard.doctor.look_mount import lock_requests
from vmguard.errors import LockConflict, LockUnavailable

_PREFIX = ".vmguard-doctor-"
#: freed and locked again by another, in the middle of what is locked
_PART: Range = (100, 200)
_NOBODY = 65534


class Attempt:
    """One attempt on one mount. ``user`` tries where root may not."""

    def __init__(self, folder: str, point: str, seek: bool, user: str) -> None:
        self._folder, self._point, self._seek, self._user = folder, point, seek, user
        # Opened as root: who has become another user may not open it any more.
        self._mountstats = open("/proc/self/mountstats", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115

    def run(self) -> dict[str, Any]:
        """The facts of ScratchFacts as far as they were reached."""
        with self._mountstats:
            try:
                return self._try("")
            except OSError as problem:
                if problem.errno not in (errno.EACCES, errno.EPERM) or os.geteuid() != 0:
                    return _error(problem)
            return self._try_as_user()

    def _try_as_user(self) -> dict[str, Any]:
        user = self._user
        try:
            entry = pwd.getpwnam(user)
            os.setgroups([])
            os.setegid(entry.pw_gid)
            os.seteuid(entry.pw_uid)
            return self._try(user)
        except KeyError:
            words = f"root may not write there, and this host has no user {user}"
            return {"error": ["EACCES", words], "squashed": "nobody"}
        except OSError as problem:
            return {**_error(problem), "squashed": user}

    def _try(self, squashed: str) -> dict[str, Any]:
        with _scratch(self._folder, self._point, "lock") as path:
            owner = os.stat(path).st_uid
            if not squashed and os.geteuid() == 0 and owner != 0:
                squashed = "nobody" if owner == _NOBODY else f"user {owner}"
            before = self._requests()
            facts: dict[str, Any] = {"squashed": squashed, **_locks(path, self._seek)}
            after = self._requests()
        facts["lock_requests"] = None if before is None or after is None else after - before
        if facts["locked"]:
            with _scratch(self._folder, self._point, "plain") as path:
                facts["delegated"] = self._stays_here(path)
        return facts

    def _stays_here(self, path: str) -> bool | None:
        """Whether a lock is kept in this client: a write delegation, for which a plain open is enough."""
        fd = _open(path, False)
        try:
            before = self._requests()
            _lock(fd, path, ofd.WRITE, WHOLE)
            after = self._requests()
        finally:
            os.close(fd)
        return None if before is None or after is None else after == before

    def _requests(self) -> int | None:
        return lock_requests(self._point, self._mountstats)


def attempt(folder: str, point: str, seek: bool, user: str) -> dict[str, Any]:
    """Make it: for a child of its own, which may become another user."""
    return Attempt(folder, point, seek, user).run()


def _error(problem: OSError) -> dict[str, Any]:
    name = errno.errorcode.get(problem.errno or 0, str(problem.errno))
    return {"error": [name, f"{problem.strerror} ({name})"]}


@contextlib.contextmanager
def _scratch(folder: str, point: str, what: str) -> Iterator[str]:
    """A new file there, for a moment; what an attempt that was killed left behind goes, too."""
    # The mount's name keeps two mounts of one share apart, which are tried at the same time.
    mount = f"{zlib.crc32(point.encode()):08x}"
    path = os.path.join(folder, f"{_PREFIX}{os.uname().nodename}-{mount}-{what}")
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


def _locks(path: str, seek: bool) -> dict[str, Any]:
    """Lock, conflict, a part freed, the server's own answer. As a claim does it: opened with O_DIRECT."""
    mine, other = _open(path, True), _open(path, True)
    try:
        if not _lock(mine, path, ofd.WRITE, WHOLE):
            return {"locked": False}
        facts: dict[str, Any] = {"locked": True, "answer": lock_probe.ask(mine, seek)}
        facts["conflict"] = not _lock(other, path, ofd.WRITE, (0, 1))
        ofd.unlock(mine, _PART)
        freed = _lock(other, path, ofd.WRITE, _PART)
        facts["sub_range"] = freed and not _lock(other, path, ofd.WRITE, (0, 1))
    finally:
        os.close(other)
        os.close(mine)
    return facts


def _lock(fd: int, path: str, kind: int, piece: Range) -> bool:
    try:
        ofd.lock(fd, path, kind, piece)
    except (LockConflict, LockUnavailable):
        return False
    return True
