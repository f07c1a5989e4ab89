"""A guard goes through a state file, also one that the daemon of the commit before has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.file_guards import EVENTS, play
from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.guard_states import GuardState, Origin, Use
from vmguard.core.locks.retry import RetryNever, RetryNow
from vmguard.daemon.registry.store import Registry

S = GuardState


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(Origin), st.lists(st.sampled_from(sorted(EVENTS)), max_size=25))
def test_a_state_file_brings_back_what_lasts(origin: Origin, events: list[str]) -> None:
    guard = FileGuard(origin)
    play(guard, events)
    again = FileGuard.from_json(guard.as_json())
    assert (again.descriptor, again.pin) == (None, None)
    lasting = Origin.EXCLUSIVE_CLAIM if guard.origin is Origin.MIGRATED else guard.origin
    assert (again.origin, again.rival) == (lasting, guard.rival)
    assert again.is_in_use or not (guard.state is S.PINNED or origin.is_found)
    if guard.descriptor is not None:
        again.taken_over(guard.descriptor)
        assert again.has_copy == guard.has_copy
        assert again.state is (S.HELD if guard.state is S.PINNED else guard.state)


def old(guard: str, **more: Any) -> dict[str, Any]:
    """The entry of one file as the old code wrote it."""
    return {
        "path": "/srv/vm/web.raw",
        "mode": "exclusive",
        "role": "disk",
        "source": "disk vda",
        "real": "/srv/vm/web.raw",
        "device": 45,
        "inode": 1234,
        "pieces": [[0, 1], [2, 98], [300, 0]],
        "ranges": "0, 2-99, 300-EOF",
        "guard": guard,
        "was_pinned": False,
        "weaker": "",
        "conflict": "",
        "shareable": False,
        "owned": True,
        "found": False,
        "foothold": False,
        "through": "",
        "process": "",
        "epoch": 3,
        **more,
    }


FOUND = {"found": True, "owned": False}
PINNED = {"through": "descriptor 9 of pid 4711", "process": "qemu-system-x86"}
TAKEN = "locked by another host"
#: entry, its state when systemd kept the descriptor and when it did not; use; kept as a copy; origin
OLD_ENTRIES = {
    "held": (old("held"), S.HELD, S.LOST, Use.NEVER, False, Origin.EXCLUSIVE_CLAIM),
    "held, forbidden": (old("held", weaker="no"), S.HELD, S.LOST, Use.SEEN, False, Origin.EXCLUSIVE_CLAIM),
    "held, was pinned": (old("held", was_pinned=True), S.HELD, S.LOST, Use.IN_USE, True, Origin.EXCLUSIVE_CLAIM),
    "shared": (old("held", mode="shared", owned=False), S.HELD, S.LOST, Use.NEVER, False, Origin.SHARED_CLAIM),
    "pinned": (old("pinned", **PINNED), S.HELD, S.LOST, Use.IN_USE, True, Origin.EXCLUSIVE_CLAIM),
    "pinned, found": (old("pinned", **FOUND, **PINNED), S.HELD, S.PENDING, Use.IN_USE, True, Origin.FOUND),
    "pinned, recovered": (old("pinned", found=True), S.HELD, S.PENDING, Use.IN_USE, True, Origin.RECOVERED),
    "shareable": (
        old("pinned", mode="shared", owned=False, shareable=True),
        *(S.HELD, S.LOST, Use.IN_USE, True, Origin.SHAREABLE),
    ),
    "pinned, in conflict": (
        old("pinned", weaker=TAKEN, conflict=TAKEN, **PINNED),
        *(S.CONFLICT, S.CONFLICT, Use.IN_USE, True, Origin.EXCLUSIVE_CLAIM),
    ),
    "incoming": (old("incoming", foothold=True), S.INCOMING, S.LOST, Use.NEVER, False, Origin.RESERVED),
    "incoming, lost": (old("lost", foothold=True), S.INCOMING, S.LOST, Use.NEVER, False, Origin.RESERVED),
    "incoming, overdue": (
        old("incoming", foothold=True, conflict="locked by hyp-a"),
        *(S.CONFLICT, S.CONFLICT, Use.NEVER, False, Origin.RESERVED),
    ),
    "outgoing": (old("outgoing", weaker="left"), S.OUTGOING, S.OUTGOING, Use.SEEN, False, Origin.EXCLUSIVE_CLAIM),
    "conflict": (
        old("conflict", weaker=TAKEN, conflict=TAKEN, **FOUND),
        *(S.CONFLICT, S.CONFLICT, Use.IN_USE, False, Origin.FOUND),
    ),
    "pending": (old("pending", **FOUND), S.HELD, S.PENDING, Use.IN_USE, False, Origin.FOUND),
    "lost": (old("lost"), S.HELD, S.LOST, Use.NEVER, False, Origin.EXCLUSIVE_CLAIM),
}


@pytest.mark.parametrize("name", OLD_ENTRIES)
def test_a_state_file_of_the_commit_before_is_taken_over(name: str) -> None:
    value, kept, lost, use, copy, origin = OLD_ENTRIES[name]
    for descriptor, state in ((7, kept), (None, lost)):
        guard = FileGuard.from_json(value)
        assert (guard._use, guard.origin, guard.unpinned_reason) == (use, origin, None)
        assert guard.rival == (value["conflict"] or None)
        assert guard.retry == (RetryNever() if value["foothold"] and not value["conflict"] else RetryNow())
        guard.taken_over(descriptor)
        assert (guard.state, guard.descriptor) == (state, descriptor)
        assert guard.has_copy == (copy and descriptor is not None)


def test_every_word_of_the_old_code_is_among_them() -> None:
    words = {"pinned", "held", "incoming", "outgoing", "conflict", "pending", "lost"}
    assert {value["guard"] for value, *_ in OLD_ENTRIES.values()} == words == {str(state) for state in S} - {"released"}


def old_reader(value: dict[str, Any]) -> dict[str, bool]:
    """What the code of the commit before read of these keys; see its GuardedFile.from_json."""
    return {
        "shareable": bool(value.get("shareable")),
        "owned": bool(value.get("owned")),
        "found": bool(value.get("found")),
        "foothold": bool(value.get("foothold")),
        "seen": bool(value.get("found") or value.get("weaker")),
        "was_pinned": value.get("guard") == "pinned" or value.get("was_pinned") is True,
    }


@pytest.mark.parametrize("name", OLD_ENTRIES)
def test_the_code_of_the_commit_before_reads_the_same_again(name: str) -> None:
    value, *_ = OLD_ENTRIES[name]
    guard = FileGuard.from_json(value)
    guard.taken_over(7)
    now = old_reader(guard.as_json())
    assert set(value) - set(guard.as_json()) == {
        *("path", "mode", "role", "source", "real", "device", "inode", "pieces", "ranges", "epoch")
    }
    before = old_reader(value)
    before["seen"] = now["seen"] = True  # known again as soon as a scan finds it open
    assert now == before


def test_what_a_hook_sends_has_only_some_of_the_keys() -> None:
    file = {"path": "/a", "mode": "exclusive", "role": "disk", "source": "", "granted": 5.5, "foothold": False}
    guard = FileGuard.from_claim(file)
    assert (guard.origin, guard.granted) == (Origin.EXCLUSIVE_CLAIM, 5.5)
    guard.received(3)
    assert (guard.state, guard.granted) == (S.HELD, 5.5)
    assert FileGuard.from_claim({**file, "mode": "shared"}).origin is Origin.SHARED_CLAIM
    assert FileGuard.from_claim({**file, "foothold": True, "granted": 0.0}).granted is None


def test_a_whole_state_file_of_the_commit_before_is_loaded(tmp_path: Path) -> None:
    files = [value for value, *_ in OLD_ENTRIES.values()]
    vm = {
        "schema": 1,
        "hypervisor": "libvirt",
        "name": "web",
        "uuid": "0d8a2c0c-76ab-5d58-9a63-3b9e4f4b2f05",
        "state": "running",
        "why": "QEMU is pid 4711",
        "claimed": "2026-11-27T20:00:00Z",
        "pid": 4711,
        "processes": [{"pid": 4711, "kind": "qemu", "name": "qemu-system-x86", "started": 99}],
        "without_hook": "",
        "rebuilt": False,
        "incoming": "",
        "stopped": "",
        "frozen": False,
        "fencing": "",
        "files": files,
    }
    (tmp_path / "vms").mkdir()
    (tmp_path / "vms" / "libvirt-0d8a2c0c-76ab-5d58-9a63-3b9e4f4b2f05.json").write_text(json.dumps(vm))
    [loaded] = Registry(str(tmp_path)).load()
    assert loaded.as_json().keys() == vm.keys()
    assert [file.as_json().keys() for file in loaded.files] == [value.keys() for value in files]
    same = ("path", "mode", "role", "source", "real", "device", "inode", "pieces", "ranges", "epoch", "conflict")
    for file, value in zip(loaded.files, files, strict=True):
        assert {key: file.as_json()[key] for key in same} == {key: value[key] for key in same}
