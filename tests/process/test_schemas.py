"""What each command prints with --json is what the manual says it prints."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.server_documents import client, document, encoded, lock
from vmguard.cli import doctor, json_schema
from vmguard.cli.main import COMMANDS, main
from vmguard.cli.output import Output
from vmguard.cli.schemas import ERROR, SCHEMAS, drawn, wrong
from vmguard.core.reports.health import Health
from vmguard.core.reports.status import Status
from vmguard.doctor.finding import Finding, Level

Capture = pytest.CaptureFixture[str]
#: these print the same without anybody's state
ANYWHERE = {
    "timing": ["timing", "--lease", "90"],
    "config check": ["config", "check"],
    "config show": ["config", "show"],
    "config example": ["config", "example"],
    "hook-script": ["hook-script", "proxmox"],
    "man": ["man", "vmguard-hooks"],
    "completion bash": ["completion", "bash"],
    "completion zsh": ["completion", "zsh"],
    "completion fish": ["completion", "fish"],
    "completion names": ["completion", "names"],
    "doctor --fix": ["doctor", "--fix", "identity", "--dry-run"],
    "disable": ["disable", "libvirt", "--dry-run"],
    "notify test": ["notify", "test"],
    "notify status": ["notify", "status"],
    "audit": ["audit"],
    "storage status": ["storage", "status"],
    "storage locks": ["storage", "locks"],
    "storage doctor": ["storage", "doctor"],
    "storage plan": ["storage", "plan", "reboot", "--down", "5m"],
    "storage watch": ["storage", "watch", "--for", "1s"],
    "storage explain": ["storage", "explain"],
    "storage release": ["storage", "release", "--host", "hyp-x"],
    "storage probe": ["storage", "probe"],
}
#: these are about the VMs and the daemon of a host
WITH_DAEMON = {
    "status": ["status"],
    "check": ["check", "web"],
    "who": ["who", "{disk}"],
    "adopt": ["adopt", "web"],
    "maintenance": ["maintenance", "--for", "1m", "--reason", "a test"],
    "arm": ["arm"],
    "history": ["history"],
    "verify-journal": ["verify-journal"],
    "history --acknowledge": ["history", "--acknowledge"],
    "plan": ["plan", "--domain-xml", "{xml}"],
    "metrics": ["metrics"],
    "notify watch": ["notify", "watch"],
    "report": ["report", "--output", "{folder}/report.tar.gz"],
    "enable": ["enable", "libvirt", "--dry-run"],
}


def breaches(said: object, name: str) -> list[str]:
    """Where a document breaks the JSON Schema that the packages bring, as jsonschema sees it."""
    document = json_schema.documents()[f"{name.replace(' --', '-').replace(' ', '-')}.json"]
    return [error.message for error in jsonschema.Draft202012Validator(document).iter_errors(said)]


@pytest.mark.parametrize("name", json_schema.documents())
def test_each_schema_that_is_shipped_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema.documents()[name])


def test_each_command_has_its_schema_and_each_error() -> None:
    assert len(json_schema.documents()) == len(SCHEMAS) + 1


def test_every_command_has_its_shape_and_every_shape_is_tested() -> None:
    assert {name.split()[0] for name in SCHEMAS} == {command.name for command in COMMANDS} - {"daemon"}
    assert set(ANYWHERE) | set(WITH_DAEMON) | {"doctor", "doctor --mute"} == set(SCHEMAS)


@pytest.mark.parametrize("name", ANYWHERE)
def test_what_it_prints_has_the_shape_of_the_manual(name: str, tmp_path: Path, capsys: Capture) -> None:
    if name == "doctor --fix" and os.geteuid() != 0:
        pytest.skip("the doctor needs root")
    config = tmp_path / "c.yaml"
    folders = {"libvirt": {"hooks_dir": str(tmp_path)}, "proxmox": {"config_dir": str(tmp_path)}}
    notify = {
        "queue_dir": str(tmp_path / "queue"),
        "targets": {"near": {"type": "webhook", "url": "http://127.0.0.1:9/"}},
    }
    (tmp_path / "answer.json").write_bytes(encoded(document([client("hyp-a", 3, lock(131, "vm/web.raw"))])))
    folders["daemon"] = {"run_dir": str(tmp_path)}
    asked = {"nas": {"transport": "command", "command": f"sh -c 'cat {tmp_path}/answer.json'"}}
    settings = {"vms": {"web": {"on_lost": "freeze"}}, "servers": asked, "notify": notify, **folders}
    config.write_text(json.dumps(settings))
    vms = tmp_path / "nodes" / "node1" / "qemu-server"
    vms.mkdir(parents=True)
    (vms / "100.conf").write_text("name: web\nscsi0: nas:100/vm-100-disk-0.raw\n")
    (tmp_path / "storage.cfg").write_text("nfs: nas\n\tserver 10.0.0.1\n\texport /vm\n")
    status = main([*ANYWHERE[name], "--json", "--config", str(config)])
    assert status in (0, 1, 2, 3)
    said = json.loads(capsys.readouterr().out)
    assert wrong(said, SCHEMAS[name]) == []
    assert breaches(said, name) == []


def test_findings_have_the_shape_of_the_manual(capsys: Capture) -> None:
    out = Output(as_json=True)
    findings = [Finding("host.clock", "host", Level.OK, "it runs")]
    health = Health(Status.OK, "guarding 1 VM")
    assert doctor.show(findings, argparse.Namespace(json=True), out, health, {}) == 0
    out.flush()
    assert wrong(json.loads(capsys.readouterr().out), SCHEMAS["doctor"]) == []


@pytest.mark.process
def test_what_a_host_with_a_vm_prints_has_the_shape_of_the_manual(tmp_path: Path) -> None:
    with Guard(tmp_path) as guard:
        disk = make_disk(tmp_path / "web.raw")
        web = Vm("web", [disk])
        (tmp_path / "web.xml").write_bytes(web.xml())
        assert guard.hook("prepare", web.xml()).status == 0
        assert eventually(lambda: guard.states() != {})
        for name, words in WITH_DAEMON.items():
            filled = [word.format(disk=disk, xml=tmp_path / "web.xml", folder=tmp_path) for word in words]
            answer = guard.vmguard(*filled, "--json")
            said = json.loads(answer.out)
            assert "error" not in said, (name, said)
            assert wrong(said, SCHEMAS[name]) == [], name
            assert breaches(said, name) == [], name
            assert answer.status == {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}.get(
                said.get("status"), answer.status
            )


@pytest.mark.parametrize("words", [["check"], ["who", "/nonexistent"], ["nonsense"], ["plan", "--name", "nobody"]])
def test_an_error_has_its_shape_and_its_exit_status(words: list[str], capsys: Capture) -> None:
    status = main([*words, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert wrong(said, ERROR) == []
    assert breaches(said, "error") == []
    assert said["error"]["exit_code"] == status != 0


# -- the measure itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: said.pop("daemon"), "missing"),
        (lambda said: said.update(vms={}), "no list"),
        (lambda said: said.update(schema="1"), "no number"),
        (lambda said: said.update(schema=True), "no number"),
        (lambda said: said["mounts"].append("x"), "no object"),
        (lambda said: said["mounts"].append({"mount": 1}), "missing"),
    ],
)
def test_negative_control_what_is_not_of_the_shape_is_seen(change: Callable[[dict[str, Any]], None], says: str) -> None:
    said: dict[str, Any] = {"schema": 1, "daemon": "up", "disarmed": None, "mounts": [], "vms": [], "new": 1}
    said |= {"config_problems": [], "fenced": [], "status": "OK", "health": None}
    assert wrong(said, SCHEMAS["status"]) == []
    assert breaches(said, "status") == []
    change(said)
    assert says in wrong(said, SCHEMAS["status"])[0]
    assert breaches(said, "status")


def test_a_shape_is_drawn_for_people() -> None:
    assert list(drawn(SCHEMAS["config check"])) == [
        "status: text",
        "files: [text]",
        "problems: [{",
        "  file: text",
        "  line: number",
        "  key: text",
        "  text: text",
        "}]",
    ]
