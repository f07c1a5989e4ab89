"""What Spin says to each switch of guard.pml: tests/model/switches.py."""

from __future__ import annotations

import os

import pytest

from tests.model.switches import LARGE, SWITCHES, Switch, ask

pytestmark = pytest.mark.process


def look(switch: Switch, seconds: float) -> None:
    answer = ask(switch, seconds)
    print(f"{switch.name}: {answer.states:,} states, {answer.seconds:.1f} s")
    assert answer.holds == switch.holds, answer.trail[-8000:] or "nothing violates the promise"
    assert answer.holds == (not answer.trail)


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_each_switch_has_the_verdict_that_is_expected(switch: Switch) -> None:
    look(switch, 50)


def test_each_protection_is_taken_away_once() -> None:
    assert sum(not switch.holds for switch in SWITCHES) >= 12
    assert sum(switch.holds for switch in SWITCHES) >= 12


if os.environ.get("VMGUARD_LONG"):

    @pytest.mark.long
    @pytest.mark.timeout(7200)
    @pytest.mark.parametrize("switch", LARGE, ids=lambda switch: switch.name)
    def test_the_large_runs(switch: Switch) -> None:
        look(switch, 7000)
