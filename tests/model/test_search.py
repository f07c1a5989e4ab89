"""The promise in every order of events, with the real machine; and what must break it does."""

from __future__ import annotations

import os

import pytest

from tests.model.__main__ import LONG_STATES, SHORT_STATES, ask, is_right
from tests.model.cases import CONTROLS, HOLDS, LIMITS, LONG, Case

FULL = bool(os.environ.get("VMGUARD_LONG"))


def look(case: Case, most: int) -> None:
    result = ask(case, most)
    print(f"{case.name}: {result}")
    assert is_right(case, result), "\n".join(result.found.story if result.found else ["nothing is broken"])


@pytest.mark.parametrize("case", HOLDS, ids=lambda case: case.name)
def test_the_promise_holds(case: Case) -> None:
    look(case, SHORT_STATES)


@pytest.mark.parametrize("case", LIMITS, ids=lambda case: case.name)
def test_a_limit_that_is_stated_is_one(case: Case) -> None:
    look(case, LONG_STATES)


@pytest.mark.parametrize("case", CONTROLS, ids=lambda case: case.name)
def test_negative_control_a_protection_that_is_taken_away_is_missed(case: Case) -> None:
    look(case, LONG_STATES)


if FULL:

    @pytest.mark.long
    @pytest.mark.parametrize("case", [*HOLDS, *LONG], ids=lambda case: case.name)
    def test_the_promise_holds_in_a_million_states(case: Case) -> None:
        look(case, LONG_STATES)
