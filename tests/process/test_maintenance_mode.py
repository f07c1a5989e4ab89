"""Disarm and arm: on record, over a restart, and over by itself. With a real daemon and the real command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import Guard, eventually
from vmguard.adapters.linux import clock, host_identity
from vmguard.core.watchdog.events import Arm, Disarm, Event
from vmguard.daemon.watch.maintenance_mode import FILE, MaintenanceMode


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard(tmp_path) as guard:
        yield guard


def disarmed(guard: Guard) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(guard.vmguard("status", "--json").out)["disarmed"]
    return found


def codes(guard: Guard) -> list[str]:
    answer = json.loads(guard.vmguard("history", "--json").out)
    return [entry["code"] for incident in answer["incidents"] for entry in incident]


def test_it_survives_a_restart_and_is_on_record(guard: Guard) -> None:
    answer = guard.vmguard("maintenance", "--for", "30m", "--reason", "switch is replaced")
    assert (answer.status, answer.err) == (1, "")
    assert "maintenance until " in answer.out
    guard.kill()
    guard.start()
    found = disarmed(guard)
    assert found is not None
    assert 1700 < found["seconds"] <= 1800
    assert (found["reason"], found["by"]) == ("switch is replaced", "root")
    status = guard.vmguard("status")
    assert status.status == 1
    assert "maintenance until " in status.out.splitlines()[0]
    armed = guard.vmguard("arm")
    assert armed.status == 0
    assert "switch is replaced" in armed.out
    assert disarmed(guard) is None
    guard.kill()
    guard.start()
    assert disarmed(guard) is None
    text = guard.vmguard("history").out
    assert "maintenance for 1800 s: switch is replaced (by root)" in text
    assert "armed again: by root" in text


def test_it_ends_by_itself(guard: Guard) -> None:
    assert guard.vmguard("disarm", "--for", "1s", "--reason", "x").status == 1
    assert eventually(lambda: disarmed(guard) is None, 5)
    assert eventually(lambda: codes(guard)[-1] == "watch.armed", 5)


@pytest.mark.parametrize(
    "words",
    [
        ("--reason", "x"),
        ("--for", "30m"),
        ("--for", "30m", "--reason", " "),
        ("--for", "0", "--reason", "x"),
        ("--for", "forever", "--reason", "x"),
        ("--for", "999h", "--reason", "x"),
    ],
)
def test_no_end_or_no_reason_is_refused(guard: Guard, words: tuple[str, ...]) -> None:
    assert guard.vmguard("maintenance", *words).status in (2, 3)
    assert disarmed(guard) is None


def test_without_a_daemon_nothing_is_believed_to_be_disarmed(guard: Guard) -> None:
    guard.kill()
    assert guard.vmguard("disarm", "--for", "1m", "--reason", "x").status == 3
    assert guard.vmguard("arm").status == 3


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"until": "soon", "reason": "x", "by": "y"},
        {"until": 1.0, "boot": host_identity.boot_id(), "reason": "x", "by": "y"},
        {"until": 1e12, "boot": host_identity.boot_id(), "reason": "x", "by": "y"},
        {"until": clock.boottime() + 60, "boot": "another", "reason": "x", "by": "y"},
    ],
    ids=["empty", "garbage", "over", "too long", "another boot"],
)
def test_a_file_that_says_nothing_true_leaves_it_armed(tmp_path: Path, state: dict[str, Any]) -> None:
    (tmp_path / FILE).write_text(json.dumps(state))
    events: list[Event] = []
    maintenance = MaintenanceMode(str(tmp_path), events.append)
    maintenance.resume()
    assert events == []
    assert maintenance.as_json() is None


def test_a_full_disk_disarms_all_the_same_and_says_that_a_restart_ends_it() -> None:
    events: list[Event] = []
    maintenance = MaintenanceMode("/proc/nowhere", events.append)
    assert not maintenance.disarm(60, "x", "y")
    assert maintenance.as_json() is not None
    maintenance.arm("y")
    assert [type(event) for event in events] == [Disarm, Arm]
