"""A process that does not tell its arguments stays unknown, and the counts, the claims and ``adopt`` go on without it.

Real processes and real files; only the read of their arguments is the test's own, and never answers for some of them.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_harness import Corner, open_corner
from tests.support.strangers import users
from vmguard.adapters.linux import may_block, ofd
from vmguard.adapters.linux.proc import CommandLine
from vmguard.core import LIBVIRT
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.locks.ranges import WHOLE
from vmguard.core.sources.process_arguments import Kind
from vmguard.daemon.adopt.adopter import Adopter
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.errors import BadInput
from vmguard.protocol.adoption import AdoptRequest

pytestmark = pytest.mark.process


class Silence:
    """Processes whose arguments cannot be read."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.over = threading.Event()
        self.reads: list[int] = []

    def read(self, pid: int, is_trusted: bool) -> CommandLine | None:
        self.reads.append(pid)
        if pid in self.pids:
            self.over.wait(60)
        return may_block.command_line(pid)


@pytest.fixture
def silence() -> Iterator[Silence]:
    silence = Silence()
    yield silence
    silence.over.set()


@pytest.fixture
def corner(tmp_path: Path, silence: Silence) -> Iterator[Corner]:
    for corner in open_corner(tmp_path, silence.read):
        yield corner
        silence.over.set()


def test_the_census_goes_on_and_finds_another_one_meanwhile(
    corner: Corner, silence: Silence, caplog: pytest.LogCaptureFixture
) -> None:
    silent = corner.writer("-name", "silent")
    silence.pids.add(silent.pid)
    silent.open(corner.disk("silent.raw"))
    corner.unclaimed_qemus.round()
    other = corner.writer("-name", "other")
    other.open(corner.disk("other.raw"))
    corner.until(corner.pinned)
    assert (corner.vm.name, corner.vm.pid) == ("other", other.pid)
    corner.until(lambda: corner.unclaimed_qemus.hangs(silent.pid))
    before = time.monotonic()
    corner.unclaimed_qemus.round()
    assert time.monotonic() - before < 0.5, "no count ever waits for it"
    assert len(corner.registry) == 1
    corner.spin(0.3)
    assert caplog.text.count(f"pid {silent.pid} (") == 1, "a person is told, once"
    silence.over.set()
    corner.until(lambda: corner.pinned(1, 2))
    assert {vm.name for vm in corner.registry} == {"silent", "other"}


@pytest.mark.parametrize("user", users())
def test_a_users_silent_look_alikes_hide_no_qemu_of_roots(corner: Corner, silence: Silence, user: int) -> None:
    """As many as a lane has threads, and more; each owner has a share, so QEMU's own user hides nothing, either."""
    silence.pids.update(corner.writer("-name", "silent", user=user).pid for _ in range(10))
    corner.unclaimed_qemus.round()
    qemu = corner.writer("-name", "web")
    qemu.open(corner.disk("web.raw"))
    corner.until(corner.pinned)
    assert (corner.vm.name, corner.vm.pid) == ("web", qemu.pid)


def test_the_first_count_is_not_a_part_of_the_start(corner: Corner, silence: Silence) -> None:
    writer = corner.writer("-name", "web")
    writer.open(corner.disk("web.raw"))
    corner.unclaimed_qemus.start()
    assert silence.reads == [], "nothing was looked at yet"
    corner.until(lambda: writer.pid in silence.reads, counting=False)


def claim(corner: Corner, disk: Path, name: str, identity: str) -> GuardedVm:
    fd = os.open(disk, os.O_RDWR)
    ofd.lock(fd, str(disk), ofd.WRITE, WHOLE)
    key = (disk.stat().st_dev, disk.stat().st_ino)
    file = GuardedFile(str(disk), EXCLUSIVE, DISK, "", key, [WHOLE])
    file.guard.received(fd)
    vm = GuardedVm(LIBVIRT, name, identity, [file], State.OFFERED)
    corner.registry.add(vm)
    return vm


def test_a_claim_whose_qemu_is_silent_is_kept_and_another_one_is_found_meanwhile(
    corner: Corner, silence: Silence
) -> None:
    vms = {name: claim(corner, corner.disk(name), name, str(uuid.uuid4())) for name in ("silent", "web")}
    qemus = {name: corner.writer("-uuid", vm.uuid) for name, vm in vms.items()}
    silence.pids.add(qemus["silent"].pid)
    for name, vm in vms.items():
        (corner.folder / f"{name}.pid").write_text(f"{qemus[name].pid}\n")
        corner.lifecycle.commit(vm)
    corner.until(lambda: vms["web"].state is State.RUNNING, counting=False)
    assert vms["web"].pid == qemus["web"].pid
    vms["silent"].deadline = 0.0
    corner.lifecycle.ended(vms["silent"])
    end = time.monotonic() + 0.5
    corner.until(lambda: time.monotonic() > end, counting=False)
    silent = vms["silent"]
    assert (silent.state, silent.start_is_over, corner.registry.get(silent.id)) == (State.CLAIMED, False, silent)
    silence.over.set()
    corner.until(lambda: silent.state is State.RUNNING, counting=False)
    assert silent.pid == qemus["silent"].pid


def test_control_a_pid_file_that_names_another_program_ends_the_start(corner: Corner) -> None:
    vm = claim(corner, corner.disk("web"), "web", str(uuid.uuid4()))
    other = corner.writer("-uuid", str(uuid.uuid4()))
    (corner.folder / "web.pid").write_text(f"{other.pid}\n")
    corner.lifecycle.commit(vm)
    end = time.monotonic() + 0.3
    corner.until(lambda: time.monotonic() > end, counting=False)
    assert vm.state is State.CLAIMED
    corner.lifecycle.ended(vm)
    corner.until(lambda: vm.start_is_over, counting=False)


def resumed(corner: Corner, identity: str) -> GuardedVm:
    """A running VM, as a state file has it whose process is gone."""
    vm = claim(corner, corner.disk("web"), "web", identity)
    vm.state, vm.pid, vm.processes = State.RUNNING, 4, [GuardedProcess(4, Kind.QEMU, started=1)]
    name, fd = vm.store_name(vm.files[0]), vm.files[0].guard.descriptor
    assert fd is not None
    vm.files = [GuardedFile.from_json(file.as_json()) for file in vm.files]
    corner.lifecycle.resume(vm, {name: fd})
    return vm


def test_a_vm_that_was_started_again_while_the_daemon_was_down_is_gone_on_with(corner: Corner) -> None:
    identity = str(uuid.uuid4())
    qemu = corner.writer("-uuid", identity)
    (corner.folder / "web.pid").write_text(f"{qemu.pid}\n")
    vm = resumed(corner, identity)
    corner.until(lambda: vm.main is not None, counting=False)
    assert (vm.state, vm.pid) == (State.RUNNING, qemu.pid)


def test_one_that_ended_while_the_daemon_was_down_has_ended(corner: Corner) -> None:
    other = corner.writer("-uuid", str(uuid.uuid4()))
    (corner.folder / "web.pid").write_text(f"{other.pid}\n")
    vm = resumed(corner, str(uuid.uuid4()))
    corner.until(lambda: vm.state is not State.RUNNING, counting=False)
    assert "while the daemon was down" in vm.why or vm.state is not State.ENDED


def test_adopt_answers_for_the_others_and_says_of_the_silent_one_that_it_is(corner: Corner, silence: Silence) -> None:
    silent, other = corner.writer("-name", "silent"), corner.writer("-name", "other")
    silence.pids.add(silent.pid)
    silent.open(corner.disk("silent.raw"))
    other.open(corner.disk("other.raw"))
    adopter = Adopter(
        corner.loop,
        corner.registry,
        corner.unclaimed_qemus,
        corner.pinner,
        corner.parts.driver.feed,
        local=lambda: True,
    )
    answers: list[Any] = []
    adopter.adopt(AdoptRequest(everything=True, dry_run=True), answers.append)
    corner.until(lambda: answers, counting=False)
    assert "other" in {vm["name"] for vm in answers[0]}
    assert "silent" not in {vm["name"] for vm in answers[0]}
    adopter.adopt(AdoptRequest(pid=silent.pid), answers.append)
    corner.until(lambda: len(answers) == 2, counting=False)
    assert isinstance(answers[1], BadInput)
    assert "does not tell its arguments" in str(answers[1])
