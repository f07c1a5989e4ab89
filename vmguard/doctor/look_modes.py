"""Looks at who else may read or write the images of a share, and their folders. Sends the server LOOKUPs; may hang."""

from __future__ import annotations

import os
import pwd
import stat

from vmguard.doctor.facts import ModeFacts

#: ordinary people's user ids (login.defs: UID_MIN), and the one that squashed users get
_FIRST_PERSON, _NOBODY = 1000, 65534


class Modes:
    """What was seen so far of one share. A place that others cannot reach, for a folder above it, is open to nobody."""

    def __init__(self, point: str, qemu_user: str = "") -> None:
        self._point = point.rstrip("/") or "/"
        self._trusted = {_NOBODY, *_uid(qemu_user)}
        self._folders: dict[str, bool] = {}
        self._readable: list[str] = []
        self._writable: list[str] = []
        self._owned: list[str] = []

    def add(self, path: str, status: os.stat_result) -> None:
        """Take in an image, and its folder."""
        if stat.S_ISREG(status.st_mode) and self._is_reached(os.path.dirname(path)):
            self._judge(path, status, stat.S_IROTH)

    def add_record(self, path: str, status: os.stat_result) -> None:
        """Take in an owner record, and its folder: whoever may write there can forge the epoch of a later claim."""
        if self._is_reached(os.path.dirname(path)):
            self._judge(path, status, 0)

    def facts(self) -> ModeFacts:
        return ModeFacts(tuple(self._readable), tuple(self._writable), tuple(self._owned))

    def _is_reached(self, folder: str) -> bool:
        """Return whether everybody may look for a name in a folder; its own mode is judged at the first time."""
        if folder not in self._folders:
            above = folder == self._point or self._is_reached(os.path.dirname(folder))
            try:
                status = os.lstat(folder)
            except OSError:
                return False
            self._folders[folder] = above and bool(status.st_mode & stat.S_IXOTH)
            if above:
                self._judge(folder, status, 0)
        return self._folders[folder]

    def _judge(self, path: str, status: os.stat_result, reading: int) -> None:
        if status.st_mode & stat.S_IWOTH:
            self._writable.append(path)
        elif status.st_mode & reading:
            self._readable.append(path)
        if status.st_uid >= _FIRST_PERSON and status.st_uid not in self._trusted:
            self._owned.append(f"{path} (user {status.st_uid})")


def _uid(user: str) -> list[int]:
    try:
        return [pwd.getpwnam(user).pw_uid]
    except KeyError:
        return []
