"""Metrics: what a host with this state tells Prometheus; and the bug report, which must not tell too much."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

import vmguard
from vmguard.cli.main import main
from vmguard.core.reports.metrics import EVENTS, HELP, PHASES, Answers, families, text
from vmguard.core.sources.secrets import without_secrets
from vmguard.core.watchdog.states import Phase

Capture = pytest.CaptureFixture[str]


def vm(name: str, **other: Any) -> dict[str, Any]:
    files = [{"guard": "pinned"}, {"guard": other.pop("guard", "pinned")}]
    return {"name": name, "uuid": f"uuid-{name}", "state": "running", "files": files, **other}


MOUNT = {
    "mount": "/srv/vm",
    "source": "nas:/vm",
    "phase": "healthy",
    "lease": 90.0,
    "lease_age": 4.5,
    "freeze_after": 72.0,
    "locks": 4,
    "unsure": 0,
    "lost": 1,
}
HISTORY = [{"code": "vm.freeze", "at": f"2026-11-20T12:00:0{n}Z"} for n in (1, 3, 2)] + [{"code": "mount.healthy"}]
#: 2026-11-20T12:00:00Z
NOON = 1795176000.0
SEEN = Answers.of(
    version="1.2",
    status=[
        vm("web", frozen=True, without_hook="started without its hook"),
        vm('a "b"\\\n', state="claimed", guard="lost"),
    ],
    health={
        "mounts": [MOUNT],
        "fences": [{}],
        "disarmed": {"seconds": 60.0},
        "descriptors": {"used": 40, "limit": 65536},
        "notify": [{"target": "admins", "problem": "refused", "waiting": 3, "dropped": 7}],
    },
    history=HISTORY,
    now=NOON,
)


def lines(seen: Answers) -> list[str]:
    return [line for line in text(families(seen)).splitlines() if not line.startswith("#")]


def test_a_host_tells_all_of_this() -> None:
    said = lines(SEEN._replace(severity=2))
    for line in (
        "vmguard_up 1",
        "vmguard_severity 2",
        'vmguard_build_info{version="1.2"} 1',
        'vmguard_vms{state="running"} 1',
        'vmguard_vms{state="claimed"} 1',
        'vmguard_vms{state="conflict"} 0',
        'vmguard_vm_without_hook{vm="web",uuid="uuid-web"} 1',
        'vmguard_vm_frozen{vm="web",uuid="uuid-web"} 1',
        'vmguard_vm_fencing{vm="web",uuid="uuid-web"} 0',
        'vmguard_vm_files{vm="web",uuid="uuid-web",guard="pinned"} 2',
        'vmguard_vm_files{vm="web",uuid="uuid-web",guard="lost"} 0',
        'vmguard_mount_lease_seconds{mount="/srv/vm",server="nas:/vm"} 90',
        'vmguard_mount_confirmed_timestamp_seconds{mount="/srv/vm",server="nas:/vm"} 1795175995.5',
        'vmguard_mount_freeze_after_seconds{mount="/srv/vm",server="nas:/vm"} 72',
        'vmguard_mount_phase{mount="/srv/vm",server="nas:/vm",phase="healthy"} 1',
        'vmguard_mount_phase{mount="/srv/vm",server="nas:/vm",phase="at-risk"} 0',
        'vmguard_mount_locks_lost{mount="/srv/vm",server="nas:/vm"} 1',
        "vmguard_fences 1",
        "vmguard_disarmed_until_timestamp_seconds 1795176060",
        "vmguard_metrics_timestamp_seconds 1795176000",
        "vmguard_open_files 40",
        'vmguard_notify_waiting{target="admins"} 3',
        'vmguard_notify_failing{target="admins"} 1',
        'vmguard_notify_dropped_total{target="admins"} 7',
        "vmguard_open_files_limit 65536",
        'vmguard_events_total{event="vm.freeze"} 3',
        'vmguard_events_total{event="mount.healthy"} 1',
        'vmguard_events_total{event="fence.done"} 0',
        'vmguard_last_event_timestamp_seconds{event="vm.freeze"} 1795176003',
        'vmguard_last_event_timestamp_seconds{event="fence.done"} 0',
    ):
        assert line in said
    assert {line.partition("{")[0].partition(" ")[0] for line in said} == {f"vmguard_{name}" for name in HELP}


def test_a_name_of_any_kind_stays_one_label_on_one_line() -> None:
    assert any(line.startswith('vmguard_vm_frozen{vm="a \\"b\\"\\\\\\\\n",') for line in lines(SEEN))


def test_without_a_daemon_it_says_so_and_of_vms_what_does_not_change_by_itself() -> None:
    said = lines(Answers.without_daemon("nobody answers", [vm("web", frozen=True)], HISTORY, NOON))
    assert said[0] == "vmguard_up 0"
    assert {line.partition("{")[0].partition(" ")[0] for line in said[1:]} == {
        "vmguard_vm_frozen",
        "vmguard_vm_fencing",
        "vmguard_vm_without_hook",
        "vmguard_config_valid",
        "vmguard_fenced_lately",
        "vmguard_events_total",
        "vmguard_last_event_timestamp_seconds",
        "vmguard_metrics_timestamp_seconds",
    }
    assert 'vmguard_vm_frozen{vm="web",uuid="uuid-web"} 1' in said


def test_an_older_daemon_that_does_not_tell_when_it_freezes_costs_only_that() -> None:
    older = {key: value for key, value in MOUNT.items() if key != "freeze_after"}
    said = lines(Answers.of("1", [], {"mounts": [older]}, [], NOON))
    assert not any("freeze_after" in line for line in said)
    assert any("mount_lease_seconds" in line for line in said)


def test_a_time_that_is_none_is_no_reason_to_tell_nothing() -> None:
    history = [{"code": "vm.freeze", "at": at} for at in (None, 7, "yesterday", "9999-99-99")]
    assert 'vmguard_last_event_timestamp_seconds{event="vm.freeze"} 0' in lines(Answers.of("1", [], {}, history, NOON))


def test_every_event_that_is_told_from_the_beginning_is_one_that_the_code_reports() -> None:
    """A typing mistake here, or a report that is renamed, would leave an alert that never rings."""
    folder = Path(vmguard.__file__).parent
    code = "".join(path.read_text() for part in ("core", "daemon") for path in sorted((folder / part).rglob("*.py")))
    code = code.replace((folder / "core/reports/metrics.py").read_text(), "")
    assert tuple(Phase) == PHASES
    phases = {f"mount.{phase}" for phase in PHASES}
    assert [event for event in EVENTS if f'"{event}"' not in code and event not in phases] == []


def test_a_host_without_a_vm_has_zero_running_ones() -> None:
    assert 'vmguard_vms{state="running"} 0' in lines(Answers.of("1", [], {"mounts": [], "fences": []}, [], NOON))


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(
        json.dumps({"daemon": {"run_dir": str(tmp_path / "run")}, "notify": {"command": "tell -p hunter2"}})
    )
    return str(path)


def test_the_file_for_node_exporter_is_whole_and_readable(config: str, tmp_path: Path, capsys: Capture) -> None:
    old = os.umask(0o077)
    try:
        assert main(["metrics", "--config", config, "--output", str(tmp_path / "vmguard.prom")]) == 2
    finally:
        os.umask(old)
    path = tmp_path / "vmguard.prom"
    main(["metrics", "--config", config])
    assert _timeless(path.read_text()) == _timeless(capsys.readouterr().out)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["c.yaml", "vmguard.prom"]


def _timeless(page: str) -> list[str]:
    return [line for line in page.splitlines() if not line.startswith("vmguard_metrics_timestamp_seconds ")]


def test_a_dead_daemon_is_in_the_exit_status_too(config: str, capsys: Capture) -> None:
    assert main(["metrics", "--config", config]) == 2
    assert "vmguard_up 0\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["--listen", "x"], ["--listen", "0"], ["--listen", "1", "--output", "f"], ["--every", "5s"], ["--every", "0"]],
)
def test_wrong_arguments_are_told(words: list[str]) -> None:
    assert main(["metrics", *words]) == 2


# -- the report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("password: hunter2", "password: ***"),
        ("smtp_token=abc def", "smtp_token=***"),
        ("API-KEY: x", "API-KEY: ***"),
        ("https://eva:geheim@nas/x", "https://***@nas/x"),
        ("lease 90 s, mount nas:/vm", "lease 90 s, mount nas:/vm"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(told: str, kept: str) -> None:
    assert without_secrets(told) == kept
