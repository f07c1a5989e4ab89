"""``python -m tests.model [--long]``: searches all cases, prints states, times and each story that was to be found."""

from __future__ import annotations

import argparse
import sys

from tests.model.cases import CONTROLS, HOLDS, LIMITS, LONG, Case
from tests.model.machines import Machines
from tests.model.search import Result, search
from tests.model.world import World

#: states of a short search; what must be found is found below 100,000
SHORT_STATES = 30_000
LONG_STATES = 1_200_000


def ask(case: Case, most: int) -> Result:
    """Search a case."""
    return search(World(case.rules, Machines(case.rules.setup, case.watch)), most)


def is_right(case: Case, result: Result) -> bool:
    """Return whether a search ended as it must."""
    if not case.broken:
        return result.found is None
    return result.found is not None and case.broken in result.found.problem


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--long", action="store_true", help=f"{LONG_STATES:,} states for each case that must hold")
    long = parser.parse_args().long
    wrong = 0
    for case in (*LIMITS, *CONTROLS, *HOLDS, *(LONG if long else ())):
        result = ask(case, LONG_STATES if long or case.broken else SHORT_STATES)
        right = is_right(case, result)
        wrong += not right
        print(
            f"{'ok   ' if right else 'WRONG'} {case.name}: {'broken' if result.found else 'holds'}; {result}",
            flush=True,
        )
        for line in result.found.story if result.found else ():
            print(f"        {line}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
