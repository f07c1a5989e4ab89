"""What ``vmguard status``, ``timing`` and ``check`` show of leases and verdicts, with a daemon and without."""

from __future__ import annotations

import argparse
import io
from typing import Any

import pytest

from vmguard.cli import check, status, timing
from vmguard.cli.host import Answers
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import DiskReport, DiskStatus, VmReport
from vmguard.core.watchdog.timing import Wishes
from vmguard.query.answers import HealthAnswer, VmAnswer

LOCK = {"path": "/srv/vm/web.raw", "mount": "/srv/vm", "verdict": "kept", "evidence": "answered", "kept_age": 0.4}
WATCH = {"stance": "running", "done": True, "need": "none", "why": "", "lease_age": 0.4, "freeze_in": 7.6,
         "fence": "", "locks": [LOCK]}  # fmt: skip
VM = {"name": "web", "uuid": "1", "hypervisor": "libvirt", "state": "running", "why": "QEMU is pid 7", "pid": 7,
      "claimed": "2026-11-20T13:00:00Z", "files": [], "watch": WATCH}  # fmt: skip
MOUNT = {"mount": "/srv/vm", "source": "nas:/vm", "phase": "healthy", "lease": 10.0, "lease_age": 0.4,
         "freeze_in": 7.6, "locks": 1, "unsure": 0, "lost": 0}  # fmt: skip
SILENT = {
    "watch": {**WATCH, "need": "at_risk", "why": "nas has answered nothing", "freeze_in": 0.0, "lease_age": 8.2},
    "frozen": True,
}


def picture(answer: dict[str, Any], problem: str = "") -> str:
    """What is on the screen for a VM, and the daemon's absence."""
    stream = io.StringIO()
    health = HealthAnswer() if problem else HealthAnswer.from_json({"mounts": [MOUNT], "fences": [], "disarmed": None})
    answers = Answers([VmAnswer.from_json({**VM, **answer})], health, problem)
    status.show(answers, argparse.Namespace(json=False, verbose=0, watch=False), Output(stream, stream))
    return stream.getvalue()


def test_a_picture_shows_the_time_left_or_that_the_vm_is_frozen_and_why() -> None:
    running, frozen = picture({}), picture(SILENT)
    assert "running" in running
    assert "7.6 s" in running
    assert "FROZEN" not in running
    assert "FROZEN" in frozen
    assert "nas has answered nothing" in frozen


def test_a_daemon_that_is_away_ends_nothing() -> None:
    assert "when it was last alive" in picture({}, "the daemon does not answer")
    assert "when it was last alive" not in picture({})


def test_a_mount_whose_locks_are_not_probed_by_seek_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "probes:" not in picture({}), "a daemon of before does not say"
    monkeypatch.setitem(MOUNT, "probes", "SEEK")
    assert "probes:" not in picture({})
    monkeypatch.setitem(MOUNT, "probes", "READ (the server has no SEEK)")
    assert "/srv/vm: probes: READ (the server has no SEEK)" in picture({})


def test_the_timing_says_how_locks_are_probed() -> None:
    stream = io.StringIO()
    probes = {"/srv/vm": "READ (the server has no SEEK)"}
    timing.show({"/srv/vm": 10.0, "/other": 10.0}, probes, Wishes(), False, Output(stream))
    assert [line for line in stream.getvalue().splitlines() if "probes:" in line] == [
        "probes: READ (the server has no SEEK)"
    ]


@pytest.mark.parametrize(
    ("watch", "words"),
    [
        (
            WATCH,
            [
                "confirmed 0.4 s ago; 7.6 s until the VM is frozen",
                "locked here, confirmed by the server 0.4 s ago",
                "verdict KEPT: answered",
            ],
        ),
        (SILENT["watch"], ["8.2 s ago: too long for the VM to run", "nas has answered nothing"]),
        ({**WATCH, "lease_age": None, "locks": []}, ["lease not confirmed yet"]),
        ({**WATCH, "fence": "killing QEMU"}, ["running: killing QEMU"]),
    ],
)
def test_check_tells_the_leases_age_the_time_left_and_the_verdict(watch: dict[str, Any], words: list[str]) -> None:
    report = VmReport("web", "1", "libvirt", "running", "guarded here, running", watch=watch)
    report.disks = [DiskReport("/srv/vm/web.raw", "disk", "exclusive", DiskStatus.GUARDED_HERE, "locked here")]
    stream = io.StringIO()
    check._print(report, Output(stream), True)
    for text in words:
        assert text in stream.getvalue()
