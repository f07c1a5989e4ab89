"""What the share says about a file, judged and worded; and the one word for a VM."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from vmguard.core.locks.owner_record import Owner
from vmguard.core.reports.health import health
from vmguard.core.reports.status import Status
from vmguard.query import host_state
from vmguard.query.answers import FileAnswer, Known, LockOnShare, VmAnswer
from vmguard.query.judge import Holder, holder_of
from vmguard.query.wording import guard_words, holder_todo, holder_words, stance

NOW = datetime.datetime(2026, 11, 20, 13, 12, 0, tzinfo=datetime.UTC)
HERE = Owner(3, host="hyp-a", claimed="2026-11-20T13:00:00Z")
THERE = Owner(4, host="hyp\x1b[b", claimed="2026-11-20T13:00:00Z")
RELEASED = Owner(5, host="hyp-b", claimed="2026-11-20T13:00:00Z", released="2026-11-20T13:01:00Z")
FREE = LockOnShare(False, None, "", (), 10.0, 7)
HELD = replace(FREE, conflict=True)
LOCAL = ("qemu-img (pid 12)",)
VM = VmAnswer.from_json({"name": "web", "uuid": "1", "hypervisor": "libvirt", "state": "running"})
FILE = FileAnswer.from_json(
    {"path": "/d", "mode": "exclusive", "role": "disk", "guard": "pinned", "ranges": "0-EOF", "inode": 7}
)


@pytest.mark.parametrize(
    ("lock", "holder", "words", "todo"),
    [
        (FREE, Holder.NOBODY, "free: nobody has it locked", ""),
        (replace(FREE, owner=HERE), Holder.NOBODY, "last held by hyp-a, claimed 13:00:00 UTC", ""),
        (replace(HELD, local_users=LOCAL), Holder.PROCESS_HERE, "a process of this host: qemu-img (pid 12)", ""),
        (replace(HELD, local_users=LOCAL, owner=THERE), Holder.PROCESS_HERE, "qemu-img (pid 12)", ""),
        (replace(HELD, local_users=LOCAL, owner=HERE), Holder.HOST, "held by hyp-a", "if hyp-a is dead"),
        (
            replace(HELD, local_users=LOCAL, owner=HERE, is_reader=True),
            Holder.READER,
            "a reader (a shared lock) on this host: qemu-img (pid 12)",
            "chmod o-rwx",
        ),
        (replace(HELD, owner=THERE, is_reader=True), Holder.READER, "a shared lock) on another host", "until it ends"),
        (HELD, Holder.UNKNOWN, "wrote no owner record: it does not use vmguard, or", "look for QEMU"),
        (
            replace(HELD, owner=RELEASED, record_problem="torn"),
            Holder.UNKNOWN,
            "who it is cannot be told: torn",
            "look for QEMU",
        ),
        (replace(HELD, owner=RELEASED), Holder.UNKNOWN, "the last claim in it was released", "look for QEMU"),
        (
            replace(HELD, owner=THERE),
            Holder.HOST,
            "held by hyp\\x1b[b since 13:00:00 UTC (12 min ago)",
            "from 13:12:11 UTC on at the latest",
        ),
        (replace(HELD, owner=THERE, lease=None), Holder.HOST, "held by hyp\\x1b[b since", ""),
    ],
)
def test_who_holds_a_file(lock: LockOnShare, holder: Holder, words: str, todo: str) -> None:
    assert holder_of(lock, "hyp-a") is holder
    assert words in holder_words(holder, lock, NOW)
    assert todo in holder_todo(holder, lock, NOW)
    assert bool(todo) == bool(holder_todo(holder, lock, NOW))


@pytest.mark.parametrize(
    ("vm", "word", "status"),
    [
        (VM, "running", Status.OK),
        (replace(VM, frozen=True), "frozen", Status.CRITICAL),
        (replace(VM, frozen=True, fencing="lost"), "fencing", Status.CRITICAL),
        (replace(VM, state="conflict"), "conflict", Status.CRITICAL),
        (replace(VM, state="offered"), "offered", Status.OK),
        (replace(VM, incoming="hyp-b"), "incoming from hyp-b", Status.OK),
        (replace(VM, files=(replace(FILE, unpinned_reason="x"),)), "running", Status.WARNING),
        (replace(VM, files=(replace(FILE, guard="lost"),)), "running", Status.CRITICAL),
        (replace(VM, files=(replace(FILE, replaced="gone"),)), "running", Status.CRITICAL),
    ],
)
def test_the_word_and_the_status_of_a_vm(vm: VmAnswer, word: str, status: Status) -> None:
    assert (stance(vm), health(host_state.of(Known([vm])), NOW).severity) == (word, status)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (replace(FILE, through="descriptor 3 of pid 7", process="qemu"), "held by qemu itself (pid 7)"),
        (replace(FILE, guard="held"), "locked by this host, held beside QEMU only: no process"),
        (replace(FILE, guard="held", unpinned_reason="a reason"), "beside QEMU only: a reason"),
        (replace(FILE, guard="incoming"), "no third host can take it"),
        (replace(FILE, guard="outgoing"), "left to the host that the VM migrates to"),
        (replace(FILE, guard="lost"), "lost with the daemon"),
        (replace(FILE, guard="conflict", conflict="hyp-b has it"), "NOT locked here: hyp-b has it"),
        (replace(FILE, guard="pending"), "NOT locked here: the storage has not answered yet"),
    ],
)
def test_how_a_file_is_guarded_in_words(file: FileAnswer, words: str) -> None:
    assert words in guard_words(file)


def test_ranges_and_descriptors_are_for_those_who_ask() -> None:
    file = replace(FILE, through="descriptor 3 of pid 7", process="qemu-system-x86")
    assert guard_words(file, "17:35:10 CET") == "locked by this host since 17:35:10 CET, held by QEMU itself (pid 7)"
    assert guard_words(file, exact=True).endswith(" (bytes 0-EOF, exclusive, pinned on descriptor 3 of pid 7)")
    assert guard_words(replace(file, mode="shared")).startswith("locked by this host for reading, ")
