"""``vmguard status --watch``: it lives, picture after picture, also while the daemon goes and comes."""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

import pytest

from vmguard.cli import check, status, timing
from vmguard.cli.output import Output
from vmguard.core.reports.vm_report import DiskReport, DiskStatus, VmReport
from vmguard.query import ask_daemon
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


class Enough(Exception):
    """The person at the screen has seen enough."""


def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> list[str]:
    """What is on the screen second by second; each answer is a VM, or the daemon's absence as a text."""
    left = list(answers)
    stream = io.StringIO()

    def guarded(places: object) -> tuple[list[VmAnswer], str]:
        down = isinstance(left[0], str)
        vm = VmAnswer.from_json(VM if down else {**VM, **left[0]})
        return [vm], left[0] if down else ""

    def sleep(seconds: float) -> None:
        assert 0 < seconds <= 1
        left.pop(0)
        if not left:
            raise Enough

    health = HealthAnswer.from_json({"mounts": [MOUNT], "fences": [], "disarmed": None})
    monkeypatch.setattr(ask_daemon, "guarded_vms", guarded)
    monkeypatch.setattr(ask_daemon, "health", lambda places: health)
    monkeypatch.setattr(time, "sleep", sleep)
    parser = argparse.ArgumentParser()
    status.add_arguments(parser)
    args = parser.parse_args(["--watch"])
    args.config, args.json, args.timeout, args.verbose = [str(tmp_path / "none.yaml")], False, None, 0
    (tmp_path / "none.yaml").write_text("")
    with pytest.raises(Enough):
        status.run(args, Output(stream, stream))
    return stream.getvalue().split(status._CLEAR)[1:]


def test_each_picture_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = pictures(tmp_path, monkeypatch, [{}, SILENT, {}])
    assert "running" in first
    assert "7.6 s" in first
    assert "FROZEN" in second
    assert "nas has answered nothing" in second
    assert "FROZEN" not in third


def test_a_daemon_that_goes_and_comes_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, down, up = pictures(tmp_path, monkeypatch, [{}, "the daemon does not answer", {}])
    assert "when it was last alive" in down
    assert "when it was last alive" not in up


def test_a_mount_whose_locks_are_not_probed_by_seek_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [first] = pictures(tmp_path, monkeypatch, [{}])
    assert "probes:" not in first, "a daemon of before does not say"
    monkeypatch.setitem(MOUNT, "probes", "SEEK")
    assert "probes:" not in pictures(tmp_path, monkeypatch, [{}])[0]
    monkeypatch.setitem(MOUNT, "probes", "READ (the server has no SEEK)")
    assert "/srv/vm: probes: READ (the server has no SEEK)" in pictures(tmp_path, monkeypatch, [{}])[0]


def test_the_timing_says_how_locks_are_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_leases", lambda: {"/srv/vm": 10.0, "/other": 10.0})
    mount = {**MOUNT, "probes": "READ (the server has no SEEK)"}
    monkeypatch.setattr(ask_daemon, "health", lambda places: HealthAnswer.from_json({"mounts": [mount]}))
    (tmp_path / "none.yaml").write_text("")
    args = argparse.Namespace(config=[str(tmp_path / "none.yaml")], json=False, lease=None, timeout=None)
    stream = io.StringIO()
    timing.run(args, Output(stream))
    assert [line for line in stream.getvalue().splitlines() if "probes:" in line] == [
        "probes: READ (the server has no SEEK)"
    ]


@pytest.mark.parametrize(
    ("watch", "words"),
    [
        (WATCH, ["confirmed 0.4 s ago; 7.6 s until the VM is frozen", "verdict KEPT, 0.4 s ago: answered"]),
        (SILENT["watch"], ["8.2 s ago: too long for the VM to run", "nas has answered nothing"]),
        ({**WATCH, "lease_age": None, "locks": []}, ["lease not confirmed yet"]),
        ({**WATCH, "fence": "killing QEMU"}, ["running: killing QEMU"]),
    ],
)
def test_check_tells_the_leases_age_the_time_left_and_the_verdict(watch: dict[str, Any], words: list[str]) -> None:
    report = VmReport("web", "1", "libvirt", "running", "guarded here, running", watch=watch)
    report.disks = [DiskReport("/srv/vm/web.raw", "disk", "exclusive", DiskStatus.GUARDED_HERE, "locked here")]
    stream = io.StringIO()
    check._print(report, Output(stream))
    for text in words:
        assert text in stream.getvalue()
