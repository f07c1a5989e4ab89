"""Strangers cannot fill the journal: it would drop what else is said."""

from __future__ import annotations

import pytest

from vmguard.daemon.adopt.few_warnings import MOST, PERIOD_S, FewWarnings


def test_a_thousand_processes_are_twenty_warnings_a_minute_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    now = 5.0
    warn = FewWarnings(lambda: now)
    for pid in range(1000):
        warn("pid %d runs UNGUARDED", pid)
    assert len(caplog.records) == MOST
    now += PERIOD_S
    warn("pid %d runs UNGUARDED", 1000)
    assert [record.getMessage() for record in caplog.records[MOST:]] == [
        f"{1000 - MOST} more warnings like these were left out: vmguard doctor",
        "pid 1000 runs UNGUARDED",
    ]
