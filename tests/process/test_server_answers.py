"""The daemon has the configured storage servers asked, keeps what they say, and waits for none of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.processes import track
from tests.support.server_documents import encoded, in_grace
from vmguard.errors import StorageTimeout
from vmguard.hook import claim

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


@pytest.mark.parametrize("words", ["", "nas is in its grace period: new locks wait 40 s more at most"])
def test_a_start_that_a_grace_period_holds_up_is_told_for_how_long(words: str) -> None:
    child = track(subprocess.Popen(["sleep", "60"]))
    reports, writes = os.pipe()
    said = [{"servers": words}] if words else []
    for report in [*said, {"stage": "locking the disks", "seconds": 0.2}]:
        os.write(writes, json.dumps(report).encode() + b"\n")
    with pytest.raises(StorageTimeout) as silent:
        claim._wait(reports, child.pid, None, -1)
    os.close(writes)
    os.close(reports)
    assert child.wait(10) == -9
    told = f"; by its own word {words}" if words else ""
    assert silent.value.message == f"the storage did not answer in time while locking the disks{told}"
