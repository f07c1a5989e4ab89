"""Find out who has files open, for many claims at once: a look at all descriptors of the host takes a while.

With ten thousand descriptors it takes a quarter of a second, so it is made in a thread, and one look answers all that
were asked before it began.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

from vmguard.adapters.linux import proc
from vmguard.adapters.linux.proc import Key, OpenFile
from vmguard.daemon.runtime.storage_threads import THIS_HOST, StorageThreads

#: gets the open descriptors of the files, or the exception that hid them
Told = Callable[[object], None]


class FileUsers:
    """The looks at the host's descriptors, one at a time."""

    def __init__(
        self,
        threads: StorageThreads,
        exclude: Callable[[], Collection[int]],
        look: Callable[[Collection[Key], Collection[int]], list[OpenFile]] = proc.users_of,
    ) -> None:
        """``exclude``: the processes that do not count."""
        self._threads = threads
        self._exclude = exclude
        self._look = look
        self._asked: list[tuple[frozenset[Key], Told]] = []
        self._looking = False

    def ask(self, keys: Collection[Key], told: Told) -> None:
        """Have ``told`` called once, from the loop, with who has these files open now."""
        self._asked.append((frozenset(keys), told))
        self._begin()

    def _begin(self) -> None:
        if self._looking or not self._asked:
            return
        self._looking = True
        asked, self._asked = self._asked, []
        keys = frozenset[Key]().union(*(each for each, _ in asked))
        work = functools.partial(self._look, keys, self._exclude())
        self._threads.run(THIS_HOST, "who has files open", work, functools.partial(self._tell, asked))

    def _tell(self, asked: list[tuple[frozenset[Key], Told]], found: object) -> None:
        self._looking = False
        self._begin()
        for keys, told in asked:
            told([user for user in found if user.key in keys] if isinstance(found, list) else found)
