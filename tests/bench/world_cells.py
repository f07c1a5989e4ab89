"""The filling in of the table of worlds: in each world the acts of tests/scenarios/world_rows.py, once.

tests/bench/worlds own/ganesha 6.12/6.12
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.lab import Lab, LabError
from tests.scenarios import world_rows
from tests.support import world_table
from tests.support.world_sheet import Sheet, red_of
from tests.support.world_table import KEPT, Column
from tests.support.worlds import WORLDS, Site, World

#: the last one leaves host A dead
ACTS: Final[tuple[Callable[[Site, Sheet], None], ...]] = (
    world_rows.starts,
    world_rows.partition,
    world_rows.cut,
    world_rows.reboot,
    world_rows.forgotten,
    world_rows.takeover,
)
#: the act that builds a site of its own
MIGRATION: Final = "migration"


def fill_in(world: World, only: list[str]) -> Column:
    """Run the acts named in `only` in one world, all if none is named."""
    sheet = Sheet()
    releases = world.client, world.server
    acts = [act for act in ACTS if act.__name__ in (only or [act.__name__])]
    try:
        if acts:
            with Lab() as lab:
                site = Site(lab, world)
                releases = site.releases()
                for act in acts:
                    _try(lambda act=act: act(site, sheet), f"{world}, {act.__name__}")  # type: ignore[misc]
    except LabError:
        print(f"{world}: the site cannot be built\n{traceback.format_exc()}")
    if not only or MIGRATION in only:
        _try(lambda: world_rows.migration(world, sheet), f"{world}, migration")
    return Column(str(world), *releases, sheet.rows)


def _try(act: Callable[[], None], what: str) -> None:
    """Run an act to its end or its first error; the rows that it did not come to stay not run."""
    try:
        act()
    except Exception:
        print(f"{what}: broke off\n{traceback.format_exc()}", flush=True)


def wanted(words: list[str]) -> list[World]:
    """Return the worlds named CLIENT/SERVER, all if none is named. Raises SystemExit for a name that is unknown."""
    by_word = {f"{world.client}/{world.server}": world for world in WORLDS}
    unknown = [word for word in words if word not in by_word]
    if unknown:
        raise SystemExit(f"no world {', '.join(unknown)}; there are {', '.join(by_word)}")
    return [by_word[word] for word in words] or WORLDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench/worlds")
    parser.add_argument("world", nargs="*", help="CLIENT/SERVER, such as 6.12/ganesha")
    parser.add_argument("--print", action="store_true", dest="print_only", help="only print what was kept")
    parser.add_argument("--file", type=Path, default=KEPT, help="where it is kept (%(default)s)")
    acts = [*(act.__name__ for act in ACTS), MIGRATION]
    parser.add_argument("--act", action="append", default=[], choices=acts, help="only this act; may be repeated")
    options = parser.parse_args()
    for world in [] if options.print_only else wanted(options.world):
        problem = world.problem()
        if problem:
            print(f"{world}: not run: {problem}")
            continue
        began = time.monotonic()
        column = fill_in(world, options.act)
        # Read again: another run may have filled in another world meanwhile.
        kept = world_table.merged(
            world_table.load(options.file), column, [str(one) for one in WORLDS], bool(options.act)
        )
        world_table.save(kept, options.file)
        print(f"{world}: {time.monotonic() - began:.0f} s, red: {red_of(column.rows) or 'nothing'}", flush=True)
    columns = world_table.load(options.file)
    print(world_table.table(columns), world_table.reds(columns), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
