"""The doctor where it starts processes: commands that mend, storages that hang, a whole examination."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.other_users import NOBODY, in_a_child, needs_root
from tests.unit.test_doctor_judges import GUARD, all_findings
from tests.unit.test_doctor_looks import DPKG
from vmguard.cli import doctor
from vmguard.cli.main import main
from vmguard.cli.output import Output
from vmguard.cli.schemas import SCHEMAS, wrong
from vmguard.config import Config
from vmguard.config.proxmox import Proxmox
from vmguard.core.reports.health import Health
from vmguard.core.reports.status import Status
from vmguard.doctor import look_guard, look_host, look_proxmox, muted
from vmguard.doctor.examine import ShareTrial
from vmguard.doctor.facts import MountFacts, UnitFacts
from vmguard.doctor.finding import Finding, Level


@pytest.mark.parametrize("name", ["web", "two words", "it's", "$(reboot)"])
def test_a_mending_command_means_the_vm_whatever_it_is_called(name: str) -> None:
    found = [f for f in all_findings(guard=replace(GUARD, unguarded=(name,))) if f.check == "guard.vms"]
    command = found[0].mend.replace("vmguard adopt", "printf %s")
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout == name


def test_vms_of_this_node_without_the_hookscript_are_seen(tmp_path: Path) -> None:
    node = os.uname().nodename.partition(".")[0]
    for owner, vmid, lines in (
        (node, "101", "name: web\nhookscript: local:snippets/vmguard\n"),
        (node, "102", "name: mail\n"),
        (node, "103", "name: other\nhookscript: local:snippets/theirs\n"),
        (node, "104", "name: gold\ntemplate: 1\n"),
        ("another", "105", "name: away\n"),
    ):
        folder = tmp_path / "pve/nodes" / owner / "qemu-server"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{vmid}.conf").write_text(lines)
    (tmp_path / "status").write_text(DPKG)
    config = Config(proxmox=Proxmox(config_dir=str(tmp_path / "pve"), snippets_dir=str(tmp_path)))
    found = look_proxmox.look(config, 5, str(tmp_path / "status"))
    assert (found.version, found.hooked, found.unhooked) == ((9, 1, 6), 1, (("102", "mail"), ("103", "other")))
    assert "is not there" in found.script_problem
    (tmp_path / "vmguard").write_text("#!/bin/sh\n")
    assert "not executable" in look_proxmox.look(config, 5, str(tmp_path / "status")).script_problem
    (tmp_path / "vmguard").chmod(0o755)
    assert look_proxmox.look(config, 5, str(tmp_path / "status")).script_problem == ""
    assert look_proxmox.look(config, 5, str(tmp_path / "none")).version is None


def test_only_root_can_look() -> None:
    command_line = argparse.Namespace()
    said = in_a_child(lambda: doctor.run(command_line, Output()), NOBODY)
    assert said == "BadInput: the doctor must see into other processes and write to the shares"


@needs_root
def test_a_wrong_configuration_is_a_finding_and_the_rest_is_examined(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("hook: {wiat: 3}")
    assert main(["doctor", "--no-proof", "--json", "--config", str(tmp_path / "bad.yaml")]) == 2
    said = json.loads(capsys.readouterr().out)
    levels = {item["check"]: item["level"] for item in said["findings"]}
    assert levels["guard.config"] == "FAIL"
    assert "host.clock" in levels


def test_storages_that_hang_are_given_up_together_and_not_one_after_the_other() -> None:
    def hang() -> Any:
        time.sleep(60)

    hanging = [MountFacts(f"/srv/{n}", f"nas{n}:/vm", "4.2", device=n, lease=90) for n in range(5)]
    began = time.monotonic()
    trials = [ShareTrial(mount, 0.5, hang, hang) for mount in hanging]
    found = [finding for trial in trials for finding in trial.findings(Config(), look_host.look(Config()))]
    assert time.monotonic() - began < 2
    away = [finding for finding in found if finding.check == "storage.answers"]
    assert [(finding.subject, finding.level) for finding in away] == [(f"/srv/{n}", Level.FAIL) for n in range(5)]


# -- what is printed --------------------------------------------------------------------------------------------------

FINDINGS = [
    Finding("host.clock", "host", Level.OK, "it runs"),
    Finding("host.name", "host", Level.WARN, "a name that many have", "hostnamectl hostname NAME"),
    Finding("mount.hard", "/srv/vm", Level.FAIL, "mounted soft", "umount /srv/vm"),
]


HEALTH = Health(Status.OK, "guarding 1 VM")


def shown(capsys: pytest.CaptureFixture[str], until: dict[str, str], verbose: int = 0) -> tuple[int, list[str]]:
    out = Output()
    status = doctor.show(FINDINGS, argparse.Namespace(json=False, verbose=verbose), out, HEALTH, until)
    out.flush()
    return status, capsys.readouterr().out.splitlines()


def test_problems_come_first_the_worst_of_them_at_the_top_and_what_is_fine_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, lines = shown(capsys, {})
    assert lines[:2] == ["OK: guarding 1 VM", ""]
    assert (status, lines[2]) == (2, "FAIL: /srv/vm: mounted soft  [mount.hard]")
    assert lines[4] == "      do now: umount /srv/vm"
    assert [line for line in lines if line.startswith("WARN")] == ["WARN: host: a name that many have  [host.name]"]
    assert lines[-3:] == ["OK: host.clock (-v tells more)", "", "1 FAIL, 1 WARN, 1 OK"]
    assert "OK: host: it runs  [host.clock]" in shown(capsys, {}, verbose=1)[1]


def test_what_is_muted_is_one_line_and_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = shown(capsys, {"mount.hard": "2026-12-24 12:00"})
    assert status == 1
    assert "muted until 2026-12-24 12:00: /srv/vm: mounted soft  [mount.hard]" in lines
    assert lines[-1] == "0 FAIL, 1 WARN, 1 OK, 1 muted"
    assert shown(capsys, {"mount.hard": "x", "host.name": "x", "host.clock": "x"})[0] == 0


@needs_root
def test_a_check_is_muted_for_a_while_and_made_loud_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muted, "PATH", str(tmp_path / "new/muted.json"))
    assert main(["doctor", "--mute", "mount.lease", "--for", "30d", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert wrong(said, SCHEMAS["doctor --mute"]) == []
    assert muted.read() == {"mount.lease": said["muted"]}
    kept = json.loads((tmp_path / "new/muted.json").read_text())
    assert abs(kept["mount.lease"] - time.time() - 30 * 86400) < 60
    assert main(["doctor", "--mute", "host.clock", "--for", "1s"]) == 0
    assert set(muted.read()) == {"mount.lease", "host.clock"}
    assert main(["doctor", "--unmute", "mount.lease"]) == 0
    assert set(muted.read()) <= {"host.clock"}
    assert main(["doctor", "--mute", "no.such"]) == 2
    assert main(["doctor", "--for", "30d"]) == 2


def test_a_file_of_muted_checks_that_is_garbage_mutes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "muted.json"
    for text in (
        "",
        "[]",
        '{"mount.lease": "long"}',
        '{"mount.lease": 1e400}',
        '{"no.such": 4e9}',
        '{"mount.lease": 1}',
    ):
        path.write_text(text)
        assert muted.read(str(path)) == {}


@pytest.mark.parametrize(
    ("shown_by_systemd", "expected"),
    [
        ("Id=a.service\nActiveState=active\nResult=success\nUnitFileState=enabled", UnitFacts("a.service")),
        ("Id=a.service\nActiveState=failed\nResult=exit-code", UnitFacts("a.service", "exit-code")),
        (
            "Id=a.service\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\n"
            "ReadWritePaths=/no/such -/nor/this /",
            UnitFacts("a.service", "exit-code", ("/no/such",)),
        ),
        ("Id=a.service\nActiveState=inactive\nUnitFileState=disabled\nReadWritePaths=/no/such", UnitFacts("a.service")),
        (
            "Id=a.service\nActiveState=inactive\nUnitFileState=enabled\nReadWritePaths=/no/such",
            UnitFacts("a.service", "", ("/no/such",)),
        ),
    ],
)
def test_a_unit_that_cannot_start_is_seen(shown_by_systemd: str, expected: UnitFacts) -> None:
    assert look_guard.unit_of(shown_by_systemd) == expected
