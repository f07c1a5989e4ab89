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

#: between the time of a step, and of what belongs to it, and the words
_MARGIN = 10
#: of a style whose words are a step of the story
STEP = "bold"


@dataclass
class Row:
    """One machine of the lab, as it is now."""

    machine: str
    state: str = "booting"
    vm: str = ""
    lock: str = ""
    writes: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.machine, self.state, self.vm, self.lock, self.writes)


TITLES = ("machine", "state", "VM", "lock", "guest's writes")


@dataclass(frozen=True)
class Line:
    """One line of the story: the second in which it was said, its words, their colour."""

    second: float
    text: str
    style: str = ""

    @property
    def is_step(self) -> bool:
        return self.style == STEP

    @property
    def margin(self) -> str:
        return f"{self.second:6.1f} s  ".ljust(_MARGIN) if self.is_step else " " * _MARGIN


@dataclass
class Screen:
    """Lines and rows; `look` refreshes the rows and is called again and again in a thread of its own."""

    rows: list[Row]
    look: Callable[[], None]
    lines: list[Line] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._stop = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the picture while the story runs. What stands there at the end is how it ended."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        if not sys.stdout.isatty():
            watcher.start()
            try:
                yield
            finally:
                self._end(watcher)
            return
        with Live(console=self._console, get_renderable=self._picture, refresh_per_second=5) as live:
            self._live = live
            watcher.start()
            try:
                yield
            finally:
                self._end(watcher)

    def _end(self, watcher: threading.Thread) -> None:
        self._stop.set()
        watcher.join(5)

    def step(self, text: str) -> None:
        """Say what happens next, with the time since the beginning."""
        self._say(text, STEP)

    def detail(self, text: str, style: str = "") -> None:
        for line in text.splitlines():
            self._say(line, style)

    def table(self) -> None:
        """Print the table once, for a terminal that cannot show it live."""
        if self._live is None:
            self._console.print(self._rows())

    def _say(self, text: str, style: str) -> None:
        line = Line(time.monotonic() - self.began, text, style)
        self.lines.append(line)
        if self._live is None:
            self._console.print(_drawn(line), soft_wrap=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(0.4)

    def _picture(self) -> Group:
        room = max(8, self._console.height - len(self.rows) - 8)
        return Group(*map(_drawn, self.lines[-room:]), Text(), self._rows())

    def _rows(self) -> Table:
        table = Table(*TITLES, expand=False)
        for row in self.rows:
            table.add_row(*row.cells)
        return table


def _drawn(line: Line) -> Text:
    return Text(line.margin, style="dim") + Text(line.text, style=line.style)
