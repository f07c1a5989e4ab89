"""The daemon has the configured storage servers asked, keeps what they say, and waits for none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.server_documents import encoded, in_grace

pytestmark = pytest.mark.process


def test_the_daemon_keeps_what_a_server_says_and_does_its_work_beside_one_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "answer").write_bytes(encoded(in_grace(["hyp-a", "hyp-b"], ["hyp-b"])))
    servers = {
        "nas": {"transport": "command", "command": f"sh -c 'cat {tmp_path}/answer'", "every": "5s"},
        "dead": {"transport": "command", "command": "sleep 60", "timeout": "1s", "every": "5s"},
    }
    with Guard(tmp_path, servers=servers) as guard:
        kept = guard.run_dir / "servers" / "nas.json"
        assert eventually(kept.exists)
        said = json.loads(kept.read_text())
        assert (said["times"]["lease"], said["missing"]) == (90.0, ["Linux NFSv4.2 hyp-a"])
        assert eventually(lambda: "dead gives no answer about itself" in guard.log)
        web = Vm("web", [make_disk(tmp_path / "web.raw")])
        assert guard.hook("prepare", web.xml()).status == 0
        assert not (guard.run_dir / "servers" / "dead.json").exists()
