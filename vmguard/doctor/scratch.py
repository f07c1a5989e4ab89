"""Tries what locks on a share are worth, with a scratch file. It may hang: only for a child that can be killed."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import zlib
from collections.abc import Iterator
from dataclasses import replace

from vmguard.adapters.linux import mountstats, ofd
from vmguard.adapters.linux.regular_file import open_regular
from vmguard.adapters.storage import delegation
from vmguard.adapters.storage.lock_probe import MountProbe
from vmguard.core.locks.ranges import WHOLE, Range
from vmguard.doctor.facts import ScratchFacts
from vmguard.doctor.look_mount import lock_requests
from vmguard.errors import LockConflict, LockUnavailable

_PREFIX = ".vmguard-doctor-"
#: freed in the middle of what is locked, and locked by another description
_PART: Range = (100, 200)
_NOBODY_UID = 65534


class Attempt:
    """One attempt on one mount. Where root may not write, it is made as ``user``."""

    def __init__(self, folder: str, point: str, seek: bool, user: str) -> None:
        self._folder, self._point, self._seek, self._user = folder, point, seek, user
        # Opened while still root: another user may not open it.
        self._mountstats = open(mountstats.MOUNTSTATS, encoding="utf-8", errors="surrogateescape", newline="\n")  # noqa: SIM115

    def run(self) -> ScratchFacts:
        """Make the attempt; return the facts as far as they were reached."""
        with self._mountstats:
            try:
                return self._try("")
            except OSError as problem:
                if problem.errno not in (errno.EACCES, errno.EPERM) or os.geteuid() != 0:
                    return _error(problem)
            return self._try_as_user()

    def _try_as_user(self) -> ScratchFacts:
        user = self._user
        try:
            entry = pwd.getpwnam(user)
            os.setgroups([])
            os.setegid(entry.pw_gid)
            os.seteuid(entry.pw_uid)
            return self._try(user)
        except KeyError:
            words = f"root may not write there, and this host has no user {user}"
            return ScratchFacts(error=("EACCES", words), squashed="nobody")
        except OSError as problem:
            return replace(_error(problem), squashed=user)

    def _try(self, squashed: str) -> ScratchFacts:
        with _scratch(self._folder, self._point, "lock", os.O_DIRECT) as path:
            owner = os.stat(path).st_uid
            if not squashed and os.geteuid() == 0 and owner != 0:
                squashed = "nobody" if owner == _NOBODY_UID else f"user {owner}"
            before = self._requests()
            facts = _locks(path, MountProbe(self._point, self._seek, self._statistics))
            after = self._requests()
        requests = None if before is None or after is None else after - before
        facts = replace(facts, squashed=squashed, lock_requests=requests)
        if facts.locked:
            with _scratch(self._folder, self._point, "plain") as path:
                facts = self._try_plain(facts, path)
        return facts

    def _try_plain(self, facts: ScratchFacts, path: str) -> ScratchFacts:
        """Try whether a lock stays in this client, under a write delegation, and whether it can be brought out.

        An open without O_DIRECT may get one, so the file is made and opened like that.
        """
        fd = _open(path, False)
        try:
            before = self._requests()
            _lock(fd, path, ofd.WRITE, WHOLE)
            after = self._requests()
            if before is None or after != before:
                return replace(facts, delegated=None if before is None or after is None else False)
            try:
                delegation.send_locks(fd, path, path, [WHOLE])
            except OSError as problem:
                return replace(facts, delegated=True, stays=str(problem))
            return replace(facts, delegated=True, stays="" if self._requests() != before else "no LOCK was sent")
        finally:
            os.close(fd)

    def _statistics(self) -> list[mountstats.NfsStatistics]:
        self._mountstats.seek(0)
        return list(mountstats.parse_mountstats(self._mountstats))

    def _requests(self) -> int | None:
        return lock_requests(self._point, self._mountstats)


def attempt(folder: str, point: str, seek: bool, user: str) -> ScratchFacts:
    """Make one attempt. For a child of its own: it may change its user.

    ``seek``: it is NFSv4.2, so its locks are probed by SEEK if the server knows it.
    """
    return Attempt(folder, point, seek, user).run()


def _error(problem: OSError) -> ScratchFacts:
    name = errno.errorcode.get(problem.errno or 0, str(problem.errno))
    return ScratchFacts(error=(name, f"{problem.strerror} ({name})"))


@contextlib.contextmanager
def _scratch(folder: str, point: str, what: str, flags: int = 0) -> Iterator[str]:
    """Make a file for the length of a ``with`` block; remove what a killed attempt left behind.

    ``flags``: O_DIRECT, so that the server gives this host no delegation of it, as a claim opens disks.
    """
    # Two mounts of one share are tried at the same time: the mount point keeps their files apart.
    mount = f"{zlib.crc32(point.encode()):08x}"
    path = os.path.join(folder, f"{_PREFIX}{os.uname().nodename}-{mount}-{what}")
    _make(path, flags)
    try:
        yield path
    finally:
        os.unlink(path)


def _make(path: str, flags: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        os.close(os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as problem:
        if not flags or problem.errno != errno.EINVAL:
            raise
        _make(path, 0)  # a file system without O_DIRECT


def _open(path: str, direct: bool) -> int:
    try:
        return open_regular(path, os.O_RDWR | (os.O_DIRECT if direct else 0))
    except OSError as problem:
        if not direct or problem.errno != errno.EINVAL:
            raise
        return open_regular(path, os.O_RDWR)  # a file system without O_DIRECT


def _locks(path: str, probe: MountProbe) -> ScratchFacts:
    """Try a lock, its conflict, its freed part and the server's answer, opened with O_DIRECT as a claim does."""
    mine, other = _open(path, True), _open(path, True)
    try:
        if not _lock(mine, path, ofd.WRITE, WHOLE):
            return ScratchFacts(locked=False)
        answer, _, asked = probe.probe(mine)
        conflict = not _lock(other, path, ofd.WRITE, (0, 1))
        ofd.unlock(mine, _PART)
        freed = _lock(other, path, ofd.WRITE, _PART)
        sub_range = freed and not _lock(other, path, ofd.WRITE, (0, 1))
        return ScratchFacts(
            locked=True,
            conflict=conflict,
            sub_range=sub_range,
            answer=answer if asked else None,
            probes=probe.kind,
            not_probed="" if asked else answer,
        )
    finally:
        os.close(other)
        os.close(mine)


def _lock(fd: int, path: str, kind: int, piece: Range) -> bool:
    try:
        ofd.lock(fd, path, kind, piece)
    except (LockConflict, LockUnavailable):
        return False
    return True
