"""The daemon's answers as types: what fits is parsed and passed on unchanged, what does not is vmguard's own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmguard.errors import WireError
from vmguard.query import ask_daemon
from vmguard.query.answers import AdoptAnswer, DisarmAnswer, HealthAnswer, PingAnswer, VmAnswer
from vmguard.query.places import Places

FILE = {"path": "/srv/web.raw", "mode": "exclusive", "role": "disk", "guard": "pinned", "ranges": "0-EOF", "inode": 7}
LOCK = {"path": "/srv/web.raw", "mount": "/srv", "verdict": "kept", "evidence": "", "kept_age": None}
WATCH = {"stance": "running", "need": "none", "why": "", "fence": "", "lease_age": 0.4, "freeze_in": None,
         "locks": [LOCK]}  # fmt: skip
VM = {"name": "web", "uuid": "1", "hypervisor": "libvirt", "state": "running", "why": "", "pid": 7, "claimed": "2026",
      "frozen": False, "processes": [{"pid": 7, "name": "qemu"}], "files": [FILE], "watch": WATCH}  # fmt: skip
MOUNT = {"mount": "/srv", "source": "nas:/vm", "phase": "healthy", "lease": 10, "lease_age": 0.4, "freeze_in": 7.6,
         "locks": 1, "unsure": 0, "lost": 0}  # fmt: skip
PING = {"version": "1", "pid": 3}
DISARMED = {"seconds": 9.5, "since": "2026", "reason": "x", "by": "eva"}


def test_what_is_known_is_parsed_and_the_json_is_passed_on_with_what_is_not() -> None:
    sent = {**VM, "files": [{**FILE, "new": 1}], "newer": [None]}
    vm = VmAnswer.from_json(sent)
    assert (vm.name, vm.pid, vm.frozen, vm.files[0].inode, vm.processes[0].name) == ("web", 7, False, 7, "qemu")
    assert vm.watch is not None
    assert (vm.watch.lease_age, vm.watch.freeze_in, vm.watch.locks[0].kept_age) == (0.4, None, None)
    assert vm.json == sent
    assert vm.files[0].json == {**FILE, "new": 1}


def test_fields_that_an_older_daemon_does_not_send_have_a_default() -> None:
    vm = VmAnswer.from_json({"name": "web", "uuid": "1", "hypervisor": "libvirt", "state": "running", "pid": None})
    assert (vm.pid, vm.files, vm.watch, vm.fencing, vm.frozen) == (0, (), None, "", False)


def test_health_disarm_ping_and_adopt_are_parsed() -> None:
    health = HealthAnswer.from_json({"mounts": [MOUNT], "fences": [{"name": "a", "sentence": "b"}], "disarmed": None})
    assert (health.mounts[0].lease, health.fences[0].sentence, health.disarmed) == (10, "b", None)
    answer = DisarmAnswer.from_json({"disarmed": DISARMED, "survives_restart": True})
    assert answer.disarmed is not None
    assert (answer.disarmed.sentence, answer.survives_restart) == ("maintenance for 10 s more, by eva: x", True)
    assert answer.disarmed.json == DISARMED
    assert PingAnswer.from_json(PING) == PingAnswer(version="1", pid=3, json=PING)
    assert AdoptAnswer.from_json({**VM, "result": "adopted"}).result == "adopted"


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (VmAnswer.from_json, None),
        (VmAnswer.from_json, [VM]),
        (VmAnswer.from_json, {}),
        (VmAnswer.from_json, {**VM, "name": 1}),
        (VmAnswer.from_json, {**VM, "pid": "7"}),
        (VmAnswer.from_json, {**VM, "pid": True}),
        (VmAnswer.from_json, {**VM, "frozen": "no"}),
        (VmAnswer.from_json, {**VM, "files": {}}),
        (VmAnswer.from_json, {**VM, "files": ["x"]}),
        (VmAnswer.from_json, {**VM, "files": [{**FILE, "inode": 1.5}]}),
        (VmAnswer.from_json, {**VM, "watch": {**WATCH, "lease_age": "soon"}}),
        (VmAnswer.from_json, {**VM, "watch": {**WATCH, "locks": [{}]}}),
        (HealthAnswer.from_json, {"mounts": [{**MOUNT, "lease": None}]}),
        (HealthAnswer.from_json, {"disarmed": 1}),
        (DisarmAnswer.from_json, {"disarmed": {}}),
        (PingAnswer.from_json, {"version": 1}),
        (AdoptAnswer.from_json, VM),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_in_words(parse: Callable[[object], object], value: object) -> None:
    with pytest.raises(WireError, match="is not understood") as caught:
        parse(value)
    assert caught.value.hint == "systemctl restart vmguard"


def _with_state(tmp_path: Path, content: dict[str, Any]) -> Places:
    folder = tmp_path / "vms"
    folder.mkdir()
    (folder / "web.json").write_text(json.dumps(content))
    (folder / "cut.json").write_text('{"files": [')
    return Places(str(tmp_path), "", "", "")


def test_without_a_daemon_its_state_files_answer(tmp_path: Path) -> None:
    vms, _, problem = ask_daemon.everything(_with_state(tmp_path, VM))
    assert [vm.json for vm in vms] == [VM]
    assert "does not run" in problem


def test_a_state_file_that_is_not_understood_is_no_silent_gap(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="'state'"):
        ask_daemon.everything(_with_state(tmp_path, {**VM, "state": None}))
