"""What other users of the host can do to a guarded VM: nothing, whatever they call their processes.

A real daemon, and processes of an ordinary user and of the user that QEMU runs as (a guest that has broken out).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_groups import ControlGroups, libvirt_scope
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.other_users import open_folder
from tests.support.processes import track
from tests.support.strangers import AS_SET_USER_ID, NOBODY, OPENS, Strangers, users
from vmguard.adapters.linux import standing
from vmguard.query import ask_daemon
from vmguard.query.ask_daemon import AdoptRequest

pytestmark = pytest.mark.process

#: for what must come, on a busy machine
_PATIENCE_S = 15.0
#: for a file that a count has found to be settled, and pinned, or met with a rival's lock
_SETTLED_S = 0.6


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    with open_folder() as top:
        yield top


@pytest.fixture
def guard(open_to_all: Path) -> Iterator[Guard]:
    (open_to_all / "guard").mkdir()
    with Guard(open_to_all / "guard", unguarded={"fence_after": "1s"}) as guard:
        yield guard


@pytest.fixture
def vm(open_to_all: Path) -> Vm:
    return Vm("web", [make_disk(open_to_all / "web.raw")])


def running(guard: Guard, vm: Vm) -> FakeQemu:
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    qemu = FakeQemu(guard.libvirt_dir, vm)
    assert eventually(lambda: guard.guards(vm.name) == {str(vm.disks[0]): "pinned"}, _PATIENCE_S), guard.status()
    return qemu


def look(guard: Guard) -> None:
    """Have the daemon look at all processes of the host, now."""
    ask_daemon.adopt(str(guard.run_dir), AdoptRequest(everything=True, dry_run=True))


def helpers(guard: Guard, qemu: FakeQemu) -> list[int]:
    [vm] = guard.status()
    return [process["pid"] for process in vm["processes"] if process["pid"] != qemu.pid]


def bait_of(strangers: Strangers, folder: Path, user: int) -> Path:
    """Return a file of the attacker's that he has locked, as another host would."""
    bait = make_disk(folder / "bait")
    os.chown(bait, user, user)
    strangers.start(user, "rival", f"{bait}=w")
    return bait


@pytest.mark.parametrize("user", users())
def test_nobody_can_have_a_vm_frozen_and_killed_by_a_lock_of_his_own(
    guard: Guard, vm: Vm, strangers: Strangers, open_to_all: Path, user: int
) -> None:
    """He calls a process like the VM's storage daemon, and lets it open a file that another one of his has locked."""
    with running(guard, vm) as qemu:
        bait = bait_of(strangers, open_to_all, user)
        strangers.start(user, "qemu-storage-daemon", f"{bait}=r", vm.uuid)
        look(guard)
        time.sleep(_SETTLED_S)
        assert (guard.states(), guard.guards("web")) == ({"web": "running"}, {str(vm.disks[0]): "pinned"})
        assert qemu.process.poll() is None
        assert f"{bait}" not in guard.log


def test_a_set_user_id_program_is_its_callers(guard: Guard, vm: Vm, strangers: Strangers, open_to_all: Path) -> None:
    with running(guard, vm) as qemu:
        bait = bait_of(strangers, open_to_all, NOBODY)
        strangers.start(0, "qemu-storage-daemon", f"{bait}=r", vm.uuid, code=AS_SET_USER_ID + OPENS)
        look(guard)
        time.sleep(_SETTLED_S)
        assert (guard.states(), helpers(guard, qemu)) == ({"web": "running"}, [])


#: the kernel escapes newlines in a name, and no other end of a line
ROOT_BY_NAME = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\rUid: 0 0 0 0', 0, 0, 0)\n"


def test_nobody_is_root_by_the_name_of_his_process(guard: Guard, vm: Vm, strangers: Strangers) -> None:
    with running(guard, vm) as qemu:
        named = strangers.start(NOBODY, "qemu-storage-daemon", vm.uuid, code=ROOT_BY_NAME + OPENS)
        status = Path(f"/proc/{named.pid}/status").read_bytes()
        assert status.startswith(b"Name:\t\rUid: 0 0 0 0\n"), "control: the kernel shows it so"
        found = standing.of(named.pid)
        assert found is not None
        assert found.users == {NOBODY}
        assert not found.is_root
        look(guard)
        time.sleep(_SETTLED_S)
        assert (guard.states(), helpers(guard, qemu)) == ({"web": "running"}, [])


def test_control_the_vms_own_process_is_believed_and_a_rival_of_its_file_stops_the_vm(
    guard: Guard, vm: Vm, strangers: Strangers, open_to_all: Path, groups: ControlGroups
) -> None:
    """The same two processes; but now root has put the helper into the VM's control group."""
    with running(guard, vm) as qemu:
        bait = bait_of(strangers, open_to_all, NOBODY)
        guard.kill()
        groups.put(libvirt_scope("web"), qemu.pid)
        guard.start()
        helper = strangers.start(NOBODY, "qemu-storage-daemon", f"{bait}=r")
        groups.put(libvirt_scope("web"), helper.pid)
        assert eventually(lambda: helpers(guard, qemu) == [helper.pid], _PATIENCE_S), guard.status()
        assert eventually(lambda: guard.states() == {"web": "conflict"}, _PATIENCE_S), guard.status()


@pytest.mark.parametrize("user", users())
def test_a_guest_that_has_broken_out_is_nothing_to_its_neighbour(
    guard: Guard, vm: Vm, strangers: Strangers, open_to_all: Path, groups: ControlGroups, user: int
) -> None:
    """It leaves its own VM's control group by no means, whatever it says and has open."""
    with running(guard, vm) as qemu:
        guard.kill()
        groups.put(libvirt_scope("web", 3), qemu.pid)
        guard.start()
        vm.disks[0].chmod(0o666)
        bait = bait_of(strangers, open_to_all, user)
        forged = strangers.start(user, "swtpm", f"{vm.disks[0]}=", f"{bait}=r", f"/domain-3-web/{vm.uuid}")
        groups.put(libvirt_scope("evil", 4), forged.pid)
        look(guard)
        time.sleep(_SETTLED_S)
        assert (guard.states(), helpers(guard, qemu)) == ({"web": "running"}, [])


@pytest.mark.parametrize(("user", "how"), [*((user, "") for user in users()), (NOBODY, "reads")])
def test_nobody_keeps_a_vm_that_has_ended_from_starting_again(
    guard: Guard, vm: Vm, strangers: Strangers, user: int, how: str
) -> None:
    qemu = running(guard, vm)
    helper = strangers.start(user, "swtpm", vm.uuid, *([f"{vm.disks[0]}=o"] if how else []))
    look(guard)
    qemu.kill()
    assert eventually(lambda: guard.states() == {}, _PATIENCE_S), guard.status()
    assert helper.poll() is None
    with running(guard, vm):
        assert guard.states() == {"web": "running"}


def test_nor_does_another_vms_guest_that_has_broken_out_and_reads_its_disk(
    guard: Guard, vm: Vm, strangers: Strangers, groups: ControlGroups
) -> None:
    qemu = running(guard, vm)
    user = users()[-1]
    os.chown(vm.disks[0], user, user)
    groups.put(libvirt_scope("evil", 4), strangers.start(user, "swtpm", vm.uuid, f"{vm.disks[0]}=o").pid)
    qemu.kill()
    assert eventually(lambda: guard.states() == {}, _PATIENCE_S), guard.status()


def test_control_who_may_still_write_to_a_disk_keeps_its_lock(guard: Guard, vm: Vm, strangers: Strangers) -> None:
    qemu = running(guard, vm)
    vm.disks[0].chmod(0o666)
    writer = strangers.start(NOBODY, "editor", f"{vm.disks[0]}=")
    qemu.kill()
    assert eventually(lambda: f"pid {writer.pid}" in guard.status()[0]["why"], _PATIENCE_S), guard.status()
    assert guard.states() == {"web": "ended"}
    writer.kill()
    assert eventually(lambda: guard.states() == {}, _PATIENCE_S)


def test_a_vm_is_known_by_its_pid_file_whatever_its_emulator_is_called(guard: Guard, vm: Vm) -> None:
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    script = 'exec 3<>"$0"; echo ready; read _'
    emulator = track(
        subprocess.Popen(
            ["my-emulator", "-c", script, str(vm.disks[0]), "-uuid", vm.uuid],
            executable="/bin/sh",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    assert emulator.stdout is not None
    assert emulator.stdout.readline() == "ready\n"
    (guard.libvirt_dir / "web.pid").write_text(f"{emulator.pid}\n")
    assert eventually(lambda: guard.guards("web") == {str(vm.disks[0]): "pinned"}, _PATIENCE_S), guard.status()
    emulator.kill()
    emulator.communicate()


def test_control_a_pid_file_that_is_somebody_elses_finds_no_qemu(guard: Guard, vm: Vm, strangers: Strangers) -> None:
    assert guard.hook("prepare", vm.xml(), vm.name).status == 0
    forged = strangers.start(NOBODY, "qemu-system-x86_64", "-uuid", vm.uuid)
    pid_file = guard.libvirt_dir / "web.pid"
    pid_file.write_text(f"{forged.pid}\n")
    os.chown(pid_file, NOBODY, NOBODY)
    look(guard)
    time.sleep(0.3)
    assert guard.states() == {"web": "claimed"}
