"""What the share says about a file, judged and worded; and the one word for a VM."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from vmguard.core.locks.owner_record import Owner
from vmguard.core.reports.vm_report import Status
from vmguard.query.answers import FileAnswer, LockOnShare, VmAnswer
from vmguard.query.judge import Holder, floor_of, holder_of, status_of
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
        (replace(FREE, owner=HERE), Holder.NOBODY, "last held by hyp-a (epoch 3, claimed 2026-11-20T13:00:00Z)", ""),
        (replace(HELD, local_users=LOCAL), Holder.PROCESS_HERE, "a process of this host: qemu-img (pid 12)", ""),
        (replace(HELD, local_users=LOCAL, owner=THERE), Holder.PROCESS_HERE, "qemu-img (pid 12)", ""),
        (replace(HELD, local_users=LOCAL, owner=HERE), Holder.HOST, "held by hyp-a", "if hyp-a is dead"),
        (HELD, Holder.UNKNOWN, "does not use vmguard (no owner record of a present claim)", "look for QEMU"),
        (replace(HELD, owner=RELEASED, record_problem="torn"), Holder.UNKNOWN, "vmguard (torn)", "look for QEMU"),
        (replace(HELD, owner=THERE), Holder.HOST, "(12 min ago), epoch 4", "from 13:12:11 UTC on at the latest"),
        (replace(HELD, owner=THERE, lease=None), Holder.HOST, "held by hyp\\x1b[b since", ""),
    ],
)
def test_who_holds_a_file(lock: LockOnShare, holder: Holder, words: str, todo: str) -> None:
    assert holder_of(lock, "hyp-a") is holder
    assert words in holder_words(holder, lock, NOW)
    assert todo in holder_todo(holder, lock, NOW)
    assert bool(todo) == bool(holder_todo(holder, lock, NOW))


@pytest.mark.parametrize(
    ("vm", "down", "word", "floor", "status"),
    [
        (VM, False, "running", Status.OK, Status.OK),
        (VM, True, "running", Status.WARNING, Status.OK),
        (replace(VM, frozen=True), False, "frozen", Status.CRITICAL, Status.CRITICAL),
        (replace(VM, frozen=True, fencing="lost"), False, "fencing", Status.CRITICAL, Status.CRITICAL),
        (replace(VM, state="conflict"), True, "conflict", Status.CRITICAL, Status.CRITICAL),
        (replace(VM, state="offered"), False, "offered", Status.WARNING, Status.OK),
        (replace(VM, incoming="hyp-b"), False, "incoming from hyp-b", Status.OK, Status.OK),
        (replace(VM, files=(replace(FILE, unpinned_reason="x"),)), False, "running", Status.WARNING, Status.WARNING),
        (replace(VM, files=(replace(FILE, guard="lost"),)), False, "running", Status.OK, Status.CRITICAL),
    ],
)
def test_the_word_and_the_status_of_a_vm(vm: VmAnswer, down: bool, word: str, floor: Status, status: Status) -> None:
    assert (stance(vm), floor_of(vm, down), status_of(vm)) == (word, floor, status)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (replace(FILE, through="descriptor 3 of pid 7", process="qemu"), "pinned on descriptor 3 of pid 7 (qemu)"),
        (replace(FILE, guard="held"), "locked here (0-EOF), exclusive, held beside the VM only: no process"),
        (replace(FILE, guard="held", unpinned_reason="a reason"), "beside the VM only: a reason"),
        (replace(FILE, guard="incoming"), "no third host can take it"),
        (replace(FILE, guard="outgoing"), "left to the host that the VM migrates to"),
        (replace(FILE, guard="lost"), "lost with the daemon"),
        (replace(FILE, guard="conflict", conflict="hyp-b has it"), "NOT locked here: hyp-b has it"),
        (replace(FILE, guard="pending"), "NOT locked here: the storage has not answered yet"),
    ],
)
def test_how_a_file_is_guarded_in_words(file: FileAnswer, words: str) -> None:
    assert words in guard_words(file)
