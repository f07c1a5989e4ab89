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
from vmguard.config import Config
from vmguard.config.proxmox import Proxmox
from vmguard.doctor import look_host, look_proxmox
from vmguard.doctor.examine import ShareTrial
from vmguard.doctor.facts import MountFacts
from vmguard.doctor.finding import Level


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
