"""The table of worlds: read from the file that tests/bench/worlds keeps, and printed as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from tests.support.world_sheet import GREEN, RED, ROWS

#: what was seen last, world by world
KEPT: Final = Path(__file__).resolve().parents[1] / "bench" / "worlds.json"
NOT_RUN: Final = "not run"
#: rows whose cells show what was measured
_TELLS: Final = ("takeover", "probe", "alone")


@dataclass(frozen=True)
class Column:
    """One world: its name ("6.12 on ganesha"), its real releases, and what came of each row."""

    world: str
    client: str
    server: str
    rows: dict[str, tuple[str, str]]

    @property
    def title(self) -> str:
        return f"{_short(self.client)} on {_short(self.server)}"

    def cell(self, row: str) -> str:
        """Return what the table has in one row."""
        result, said = self.rows.get(row, (NOT_RUN, ""))
        if result == RED:
            return "**red**"
        return said if result == GREEN and said and row in _TELLS else result


def _short(release: str) -> str:
    """Shorten a release: "6.12.113" and "NFS-Ganesha 4.3 on 6.1.176" to "6.12" and "Ganesha 4.3"."""
    found = re.match(r"(?:NFS-(Ganesha) |(HA pair), )?(\d+\.\d+)", release)
    return " ".join(filter(None, found.groups())) if found else release


def load(path: Path = KEPT) -> list[Column]:
    """Return the columns that are kept in a file, none if there is no file."""
    if not path.exists():
        return []
    kept = json.loads(path.read_text())["worlds"]
    return [
        Column(
            one["world"], one["client"], one["server"], {name: (cell[0], cell[1]) for name, cell in one["rows"].items()}
        )
        for one in kept
    ]


def save(columns: Sequence[Column], path: Path = KEPT) -> None:
    path.write_text(json.dumps({"worlds": [asdict(column) for column in columns]}, indent=1) + "\n")


def merged(columns: Sequence[Column], new: Column, order: Sequence[str], in_part: bool = False) -> list[Column]:
    """Return the columns with a new one in the place of its world's old one, in the order of the worlds.

    in_part: rows that the new one does not have, and the releases, stay as they were.
    """
    by_world = {column.world: column for column in columns}
    old = by_world.get(new.world)
    by_world[new.world] = replace(old, rows={**old.rows, **new.rows}) if old and in_part else new
    known = [name for name in order if name in by_world]
    return [by_world[name] for name in (*known, *sorted(by_world.keys() - set(order)))]


def table(columns: Sequence[Column]) -> str:
    """Return the table as Markdown: a line for each row, a column for each world."""
    lines = [["hosts on server", *(column.title for column in columns)], ["---"] * (len(columns) + 1)]
    lines += [[title, *(column.cell(row) for column in columns)] for row, title in ROWS.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def reds(columns: Sequence[Column]) -> str:
    """Return a line for each red cell: where it is, and what was seen there."""
    return "".join(
        f"* {column.title}, {ROWS.get(row, row)}: {said}\n"
        for column in columns
        for row, (result, said) in column.rows.items()
        if result == RED
    )
