"""`vmguard report`: the archive has its parts and no secret, and replaces no file."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from vmguard.cli.main import main


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(
        json.dumps({"daemon": {"run_dir": str(tmp_path / "run")}, "notify": {"command": "tell -p hunter2"}})
    )
    return str(path)


def test_a_report_has_its_parts_and_no_secret(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.tar.gz"
    (tmp_path / "run" / "vms").mkdir(parents=True)
    state = {"name": "\udcff\ud800", "files": [{"source": "rbd:vms/a:id=x:key=hunter2", "password": "hunter2"}]}
    (tmp_path / "run" / "vms" / "a.json").write_text(json.dumps(state))
    (tmp_path / "run" / "history.jsonl").write_bytes(b'{"text": "https://x:hunter2@nas/a"}\n{"text": "\xff hunter')
    assert main(["report", "--config", config, "--output", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        parts = {name.partition("/")[2]: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]
    assert set(parts) == set(said["parts"])
    assert {"version.txt", "config.yaml", "status.json", "doctor.json", "history.jsonl", "proc-locks"} <= set(parts)
    assert "notify.command: ***" in parts["config.yaml"]
    assert not any("hunter2" in content for content in parts.values())
    assert json.loads(parts["doctor.json"])["findings"]
    kept = json.loads(parts["state/a.json"])
    assert kept["name"] == "\\udcff\\ud800", "no program stumbles over it"
    assert kept["files"] == [{"source": "rbd:vms/a:***", "password": "***"}]
    assert parts["history.jsonl"].splitlines()[0] == '{"text": "https://***@nas/a"}'
    assert parts["status.json"].startswith("not to be had: DaemonError"), "a part that is missing says why"


def test_a_report_never_overwrites(config: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    assert main(["report", "--config", config, "--output", str(tmp_path / "there")]) == 3
    assert (tmp_path / "there").read_text() == "mine"
