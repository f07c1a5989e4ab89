"""A start that is refused is in the history and in the metrics: a VM that does not run is not seen by anybody else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.guard import Guard, Vm, eventually, make_disk
from vmguard.adapters.linux import ofd

pytestmark = pytest.mark.process


def refused(guard: Guard) -> list[dict[str, object]]:
    said = json.loads(guard.vmguard("history", "--json").out)
    return [entry for incident in said["incidents"] for entry in incident if entry["code"] == "start.refused"]


def test_a_start_that_another_lock_refuses_is_told_once_with_the_reason(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "web.raw")
    with Guard(tmp_path) as guard:
        rival = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
        ofd.lock(rival, str(disk), ofd.WRITE, (0, 0))
        try:
            assert guard.hook("prepare", Vm("web", [disk]).xml()).status == 1
        finally:
            os.close(rival)
        assert eventually(lambda: len(refused(guard)) == 1)
        [entry] = refused(guard)
        assert entry["level"] == "warning"
        assert str(entry["text"]).startswith("VM 'web': its start is refused: ")
        assert str(disk) in str(entry["text"])
        page = guard.vmguard("metrics").out
        assert 'vmguard_events_total{event="start.refused"} 1\n' in page


def test_negative_control_a_start_that_is_not_refused_is_not_told(tmp_path: Path) -> None:
    with Guard(tmp_path) as guard:
        assert guard.hook("prepare", Vm("web", [make_disk(tmp_path / "web.raw")]).xml()).status == 0
        assert refused(guard) == []
        assert 'vmguard_events_total{event="start.refused"} 0\n' in guard.vmguard("metrics").out
