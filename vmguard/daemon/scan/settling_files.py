"""Wait with the pin of an unannounced file while QEMU still creates it.

While QEMU creates a new image it opens it several times in a row. The image locks of its last description would live on
in our copy of it and refuse the next one ("Failed to get shared "write" lock"): the snapshot would fail.
"""

from __future__ import annotations

from collections.abc import Collection

from vmguard.adapters.linux.proc import Key, OpenFile

#: how long such a file must be open in the same way before it is pinned
STEADY_S = 0.4
#: how long we keep no copy of its description after that. The lock is put onto QEMU's description and no copy stays,
#: for the same reason: making an image may take long on a slow storage.
_NO_COPY_S = 10.0

_How = frozenset[tuple[int, int, bool]]


class SettlingFiles:
    """The settling files of one VM."""

    __slots__ = ("_fresh", "_young")

    def __init__(self) -> None:
        #: how each is open, and since when
        self._fresh: dict[Key, tuple[_How, float]] = {}
        #: until when we keep no copy of each
        self._young: dict[Key, float] = {}

    def steady(self, key: Key, users: list[OpenFile], now: float) -> bool | None:
        """Return whether a file has been open in the same way for long enough; None when it has just changed."""
        how = frozenset((user.pid, user.fd, user.info.writable) for user in users)
        before, since = self._fresh.get(key, (None, now))
        if before != how:
            self._fresh[key] = (how, now)
            return None
        if now - since < STEADY_S:
            return False
        del self._fresh[key]
        self._young[key] = now + _NO_COPY_S
        return True

    def grown_up(self, key: Key, now: float) -> bool:
        """Return whether we may keep a copy of a file's description."""
        if now < self._young.get(key, 0.0):
            return False
        self._young.pop(key, None)
        return True

    def next_change(self) -> float:
        """Return when the next file may have a copy, in the loop's time; infinite when there is none."""
        return min(self._young.values(), default=float("inf"))

    def only(self, keys: Collection[Key]) -> None:
        """Forget all files but ``keys``: they are not open any more."""
        for known in (self._fresh, self._young):
            for key in known.keys() - keys:
                del known[key]
