"""What was seen in one world: a sheet with a line for each row of the table of worlds.

    sheet = Sheet()
    with sheet.row("claim") as said:
        ...
        said("0.2 s")

A row that is not filled in is not run. One whose block raises is red, with the error's first line, and the
next one goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

#: name of a row -> what it says of a world, in the order of the table
ROWS: Final = {
    "claim": "claim is on the server",
    "refuse": "second start refused, holder named",
    "delegation": "no delegation hides the lock",
    "hot-plug": "disk plugged in later is pinned",
    "unguarded": "start without the hook is taken up",
    "pin": "pin: EIO after the loss",
    "stale": "stale queued write refused",
    "control": "control: without the pin it lands",
    "probe": "probe reaches the server, tells the loss",
    "alone": "cut for two leases, nobody wanted its locks",
    "reboot": "30 s storage reboot costs no VM",
    "grace": "start in grace gets nothing that is claimed",
    "forgotten": "forgotten by the server: VM dead, data safe",
    "takeover": "host dead to startable elsewhere",
    "migration": "live migration",
}
GREEN: Final = "ok"
RED: Final = "red"


class Sheet:
    """Rows with what came of them: GREEN or RED, and what there is to say."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str]] = {}

    @contextmanager
    def row(self, name: str) -> Iterator[Callable[[str], None]]:
        """Fill in a row with what the block does; the block says by a call what it has measured."""
        words: list[str] = []
        try:
            yield words.append
        except Exception as error:
            print(f"row {name}:\n{traceback.format_exc()}")
            self.rows[name] = (RED, f"{type(error).__name__}: {error}".strip().splitlines()[0][:200])
        else:
            self.rows[name] = (GREEN, "; ".join(words))

    def red(self) -> dict[str, str]:
        """Return the rows that are red, with their errors."""
        return red_of(self.rows)


def red_of(rows: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {name: said for name, (result, said) in rows.items() if result == RED}
