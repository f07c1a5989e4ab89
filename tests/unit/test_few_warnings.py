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


def test_what_is_an_event_is_reported_and_just_as_seldom(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []
    warn = FewWarnings(lambda: 5.0, lambda code, text: told.append((code, text)))
    for pid in range(MOST + 5):
        warn("pid %d runs UNGUARDED", pid, code="vm.unguarded")
    assert told[0] == ("vm.unguarded", "pid 0 runs UNGUARDED")
    assert len(told) == MOST
    assert caplog.records == []
