"""A daemon with hostile company refuses nothing, answers, and stays small. `tests/bench/load` prints the times."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.bench.load_times import LOADS, RSS_MIB, Host, hosted, measure, under

pytestmark = pytest.mark.long

SIZE = 1.0 if os.environ.get("VMGUARD_LONG") else 0.05


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosted() as host:
        assert measure("in peace", host).refused == []
        yield host


@pytest.mark.parametrize("load", LOADS)
def test_nothing_is_refused_and_the_daemon_stays_small(host: Host, load: str) -> None:
    result = under(load, host, SIZE)
    assert result.refused == []
    assert result.rss < RSS_MIB
    assert "REFUSED" not in result.note
