"""What the demo shows: the steps of the story, and a live table of the hosts below it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text


@dataclass
class Row:
    """One machine of the lab, as it is now."""

    machine: str
    state: str = "booting"
    vm: str = ""
    lock: str = ""
    writes: str = ""


@dataclass
class Screen:
    """Steps and rows; `look` refreshes the rows and is called again and again in a thread of its own."""

    rows: list[Row]
    look: Callable[[], None]
    steps: list[Text] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._stop = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        watcher = threading.Thread(target=self._watch, daemon=True)
        if not sys.stdout.isatty():
            watcher.start()
            try:
                yield
            finally:
                self._stop.set()
                watcher.join(5)
            return
        with Live(console=self._console, get_renderable=self._picture, refresh_per_second=5) as live:
            self._live = live
            watcher.start()
            try:
                yield
            finally:
                self._stop.set()
                watcher.join(5)

    def step(self, text: str) -> None:
        """What happens next, with the time since the beginning."""
        self._say(Text(f"{time.monotonic() - self.began:6.1f} s  ", style="dim") + Text(text, style="bold"))

    def detail(self, text: str, style: str = "") -> None:
        for line in text.splitlines():
            self._say(Text(" " * 10 + line, style=style))

    def table(self) -> None:
        """The table once, for a terminal that cannot show it live."""
        if self._live is None:
            self._console.print(self._rows())

    def _say(self, text: Text) -> None:
        self.steps.append(text)
        if self._live is None:
            self._console.print(text, soft_wrap=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(0.4)

    def _picture(self) -> Group:
        room = max(8, self._console.height - len(self.rows) - 8)
        return Group(*self.steps[-room:], Text(), self._rows())

    def _rows(self) -> Table:
        table = Table("machine", "state", "VM", "lock", "guest's writes", expand=False)
        for row in self.rows:
            table.add_row(row.machine, row.state, row.vm, row.lock, row.writes)
        return table
