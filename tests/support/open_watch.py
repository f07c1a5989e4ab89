"""Sees whether any process of this host opens a file, a FIFO or a device. To hold it (O_PATH) or to stat it is none."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from vmguard.adapters.linux.inotify import Inotify


class OpenWatch:
    """A context manager; ``opened`` says which of the paths were opened since it was asked last."""

    def __init__(self, *paths: Path) -> None:
        self._inotify = Inotify()
        self._watches = {self._inotify.add(str(path)): path for path in paths}

    def opened(self) -> set[Path]:
        return {self._watches[watch] for watch in self._inotify.events()}

    def __enter__(self) -> OpenWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inotify.close()
