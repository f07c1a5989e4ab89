"""The daemon as a process: it pins, follows, lets go on proof of death and of nothing less, and survives what befalls
a daemon: a second one, a bad configuration, state files full of garbage, SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import faulty_libc
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, locks_on, make_disk
from vmguard.adapters.linux import ofd
from vmguard.adapters.storage import owner_record
from vmguard.errors import LockConflict

pytestmark = pytest.mark.process


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    (tmp_path / "guard").mkdir()
    with Guard(tmp_path / "guard") as guard:
        yield guard


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm("web", [make_disk(tmp_path / f"disk{number}.raw") for number in range(2)])


def claim(guard: Guard, vm: Vm) -> None:
    answer = guard.hook("prepare", vm.xml(), vm.name)
    assert (answer.status, answer.err) == (0, "")


def started(guard: Guard, vm: Vm) -> FakeQemu:
    claim(guard, vm)
    qemu = FakeQemu(guard.libvirt_dir, vm)
    assert eventually(lambda: all_pinned(guard, vm)), guard.guards(vm.name)
    return qemu


def all_pinned(guard: Guard, vm: Vm) -> bool:
    return guard.guards(vm.name) == {str(disk): "pinned" for disk in vm.disks}


def rival_gets(disk: Path) -> bool:
    """Whether another claim of the whole file would succeed now."""
    fd = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
    try:
        ofd.lock(fd, str(disk), ofd.WRITE, (0, 0))
    except LockConflict:
        return False
    finally:
        os.close(fd)
    return True


class Prober:
    """A rival that tries to lock whole disks in a tight loop, for the length of a ``with`` block."""

    def __init__(self, *disks: Path) -> None:
        self._disks = disks
        self.tries = 0
        self.won: list[Path] = []

    def __enter__(self) -> Prober:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self.tries += 1
            self.won += [disk for disk in self._disks if rival_gets(disk)]


# -- pin, follow, let go --------------------------------------------------------------------------------------------


def test_a_vm_from_claim_to_release(guard: Guard, vm: Vm) -> None:
    claim(guard, vm)
    assert set(guard.guards(vm.name).values()) == {"held"}
    with Prober(*vm.disks) as rival, FakeQemu(guard.libvirt_dir, vm) as qemu:
        assert eventually(lambda: all_pinned(guard, vm), 2)
        [shown] = guard.status()
        assert (shown["state"], shown["pid"]) == ("running", qemu.pid)
        assert {file["through"].partition(" of ")[2] for file in shown["files"]} == {f"pid {qemu.pid}"}
        time.sleep(0.3)
        assert rival.won == []  # from here on it may: the lock is QEMU's own and ends with it
        assert rival.tries > 50
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
    for disk in vm.disks:
        assert eventually(lambda disk=disk: released(disk))  # type: ignore[misc]


def released(disk: Path) -> bool:
    owner = owner_record.read_owner(str(disk), ".vmguard", disk.stat().st_ino)
    return owner is not None and bool(owner.released)


def test_negative_control_without_a_claim_the_rival_gets_in(guard: Guard, vm: Vm) -> None:
    with Prober(*vm.disks) as rival, FakeQemu(guard.libvirt_dir, vm, locking=False):
        assert eventually(lambda: set(rival.won) == set(vm.disks), 2)


def test_what_qemu_opens_is_pinned_and_what_it_closes_is_let_go(guard: Guard, vm: Vm, tmp_path: Path) -> None:
    overlay = make_disk(tmp_path / "overlay.raw")
    with started(guard, vm) as qemu:
        qemu.open(overlay)
        assert eventually(lambda: guard.guards(vm.name).get(str(overlay)) == "pinned", 2)
        assert not rival_gets(overlay)
        qemu.close(vm.disks[0])
        assert eventually(lambda: str(vm.disks[0]) not in guard.guards(vm.name), 3)
        assert eventually(lambda: rival_gets(vm.disks[0]))
        assert set(guard.guards(vm.name)) == {str(vm.disks[1]), str(overlay)}
    assert eventually(lambda: guard.nothing_left(overlay, *vm.disks)), guard.leftovers(overlay, *vm.disks)


def test_a_descriptor_that_is_opened_anew_keeps_its_lock(guard: Guard, vm: Vm) -> None:
    with started(guard, vm) as qemu, Prober(vm.disks[0]) as rival:
        for _ in range(10):
            numbers = {qemu.open(vm.disks[0])}
            time.sleep(0.05)
            numbers.add(qemu.reopen(vm.disks[0]))
            assert eventually(lambda: guard.guards(vm.name).get(str(vm.disks[0])) == "pinned", 2)
    assert rival.won == []


def test_a_backing_file_that_turns_writable_and_back(guard: Guard, vm: Vm) -> None:
    template = vm.disks[1]
    read_only = vm.xml().replace(b"<target dev='vdb' bus='virtio'/>", b"<target dev='vdb'/><readonly/>")
    assert guard.hook("prepare", read_only).status == 0
    with FakeQemu(guard.libvirt_dir, vm, read_only=(template,), locking=False) as qemu:
        assert eventually(lambda: all_pinned(guard, vm))
        for flags, mode in ((os.O_RDWR, "exclusive"), (os.O_RDONLY, "shared"), (os.O_RDWR, "exclusive")):
            qemu.reopen(template, flags)
            assert eventually(lambda mode=mode: mode_of(guard, template) == mode, 2), guard.log  # type: ignore[misc]
            assert {lock.exclusive for lock in locks_on(template)} == {mode == "exclusive"}
            assert not rival_gets(template)


def mode_of(guard: Guard, disk: Path) -> str:
    return next((file["mode"] for vm in guard.status() for file in vm["files"] if file["path"] == str(disk)), "none")


# -- proof of death -------------------------------------------------------------------------------------------------


def test_no_word_of_the_hypervisor_frees_a_running_vm(guard: Guard, vm: Vm) -> None:
    with started(guard, vm), Prober(*vm.disks) as rival:
        for _ in range(5):
            assert guard.hook("release", vm.xml(), words=("end", "crashed")).status == 0
        again = guard.hook("prepare", vm.xml())
        assert again.status == 1
        assert "VM 'web' is already running on this host" in again.err
        time.sleep(1)
        assert all_pinned(guard, vm)
    assert rival.won == []


def test_a_start_that_produced_no_qemu_is_released_at_its_deadline(tmp_path: Path, vm: Vm) -> None:
    with Guard(tmp_path, daemon={"start_deadline": "5s"}, hook={"timeout": "4s"}) as guard:
        claim(guard, vm)
        with vm.disks[0].open("rb"):  # somebody of this host still has a disk open: no proof
            assert not eventually(lambda: guard.nothing_left(*vm.disks), 6)
            assert "still open in" in guard.status()[0]["why"]
            assert not rival_gets(vm.disks[1])
        assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
        assert "no QEMU within 5 s of its claim" in guard.log


def test_a_stranger_in_the_pid_file_is_not_taken_for_qemu(guard: Guard, vm: Vm, tmp_path: Path) -> None:
    claim(guard, vm)
    with FakeQemu(tmp_path, Vm("stranger", [])) as stranger:
        (guard.libvirt_dir / "web.pid").write_text(str(stranger.pid))
        time.sleep(0.5)
        assert guard.states() == {"web": "claimed"}
    with FakeQemu(guard.libvirt_dir, vm):
        assert eventually(lambda: all_pinned(guard, vm))


@pytest.mark.parametrize("milliseconds", range(0, 120, 8))
def test_a_qemu_that_dies_while_it_is_being_pinned(guard: Guard, vm: Vm, milliseconds: int) -> None:
    for _ in range(3):
        claim(guard, vm)
        with FakeQemu(guard.libvirt_dir, vm):
            time.sleep(milliseconds / 1000)
        guard.hook("release", vm.xml())
        assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)
    assert "ERROR" not in guard.log


@pytest.mark.parametrize("milliseconds", [50, 150, 300, 600])
def test_a_qemu_that_dies_in_the_middle_of_a_slow_pin(tmp_path: Path, vm: Vm, milliseconds: int) -> None:
    guard = Guard(tmp_path)
    guard.environment = {"LD_PRELOAD": faulty_libc.build(tmp_path), "SLOW_LOCKS": "80"}
    with guard:
        claim(guard, vm)
        with FakeQemu(guard.libvirt_dir, vm):
            assert eventually(lambda: guard.states() == {"web": "running"})
            time.sleep(milliseconds / 1000)
        assert eventually(lambda: guard.nothing_left(*vm.disks), 5), guard.leftovers(*vm.disks)
        claim(guard, vm)
        guard.hook("release", vm.xml())
        assert eventually(lambda: guard.nothing_left(*vm.disks), 5), guard.leftovers(*vm.disks)
        assert "ERROR" not in guard.log


# -- what befalls a daemon ------------------------------------------------------------------------------------------


def test_no_helper_inherits_what_the_daemon_has_open(guard: Guard, vm: Vm) -> None:
    """A helper starts without closing anything itself (spawn.py); a copy of a locked description would outlive it."""
    claim(guard, vm)
    flags = {}
    for link in Path(f"/proc/{guard.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a descriptor of a moment, closed meanwhile
            info = Path(f"/proc/{guard.pid}/fdinfo/{link.name}").read_text()
            flags[int(link.name), os.readlink(link)] = int(info.split("flags:")[1].split()[0], 8)
    assert {path for _, path in flags} >= {str(disk) for disk in vm.disks}
    assert {where for where, flag in flags.items() if where[0] > 2 and not flag & os.O_CLOEXEC} == set()


def test_a_second_daemon_is_refused(guard: Guard, vm: Vm) -> None:
    claim(guard, vm)
    second = guard.launch()
    assert second.wait(10) == 3
    assert f"another vmguard daemon runs with {guard.run_dir}" in guard.log
    assert guard.states() == {"web": "claimed"}


def test_a_bad_configuration_at_reload_leaves_the_last_good_one(guard: Guard, vm: Vm) -> None:
    guard.configure(hook={"wait": "forever"})
    os.kill(guard.pid, signal.SIGHUP)
    assert eventually(lambda: "the last good one is in force" in guard.log)
    assert "hook.wait" in guard.log
    with started(guard, vm):
        assert guard.vmguard("status").status == 3  # the command line has no last good one
    guard.configure(hook={"wait": "0s"})
    os.kill(guard.pid, signal.SIGHUP)
    assert eventually(lambda: "configuration reloaded" in guard.log)


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b"\xff\xfe\0", b'{"schema": 9}', b'{"schema": 1, "files": 3}', b"null"], ids=repr
)
def test_a_state_file_of_garbage_costs_nobody_else(guard: Guard, vm: Vm, garbage: bytes) -> None:
    with started(guard, vm):
        guard.kill()
        (guard.run_dir / "vms" / "libvirt-aaa.json").write_bytes(garbage)
        (guard.run_dir / "vms" / "libvirt-aaa.json.new").write_bytes(garbage)
        guard.start()
        assert eventually(lambda: all_pinned(guard, vm))
        assert "libvirt-aaa.json" in guard.log
        assert guard.vmguard("status").status == 0


@pytest.mark.parametrize("keep", [0, 1, 200])
def test_a_truncated_state_file_frees_no_lock(guard: Guard, vm: Vm, keep: int) -> None:
    with started(guard, vm), Prober(*vm.disks) as rival:
        guard.kill()
        [state] = (guard.run_dir / "vms").iterdir()
        os.truncate(state, keep)
        guard.start()
        time.sleep(0.5)
        again = guard.hook("prepare", Vm("rival", vm.disks).xml(), "rival")
        assert again.status == 1
    assert rival.won == []


def test_a_killed_daemon_is_followed_by_one_that_takes_all_up_again(guard: Guard, vm: Vm, tmp_path: Path) -> None:
    other = Vm("db", [make_disk(tmp_path / "db.raw")])
    disks = [*vm.disks, *other.disks]
    with started(guard, vm) as qemu, started(guard, other):
        before = table(guard)
        with Prober(*disks) as rival:
            for _ in range(5):
                guard.kill()
                time.sleep(0.2)
                guard.start()
                assert eventually(lambda: table(guard) == before, 2), table(guard)
        assert rival.won == []
        assert rival.tries > 100
        guard.kill()
        qemu.kill()  # while nobody looks
        guard.start()
        assert eventually(lambda: guard.states() == {"db": "running"}), guard.log
        assert rival_gets(vm.disks[0])
    assert eventually(lambda: guard.nothing_left(*disks)), guard.leftovers(*disks)


def test_negative_control_an_unpinned_claim_is_lost_with_its_daemon_and_said_so(guard: Guard, vm: Vm) -> None:
    claim(guard, vm)
    with Prober(*vm.disks) as rival:
        guard.kill()
        assert eventually(lambda: bool(rival.won))
    guard.start()
    assert set(guard.guards(vm.name).values()) == {"lost"}
    assert guard.vmguard("status").status == 2


def table(guard: Guard) -> dict[str, tuple[str, str]]:
    return {file["path"]: (file["guard"], file["through"]) for vm in guard.status() for file in vm["files"]}


# -- what people and machines are told ------------------------------------------------------------------------------


def test_check_status_and_who_while_a_vm_runs(guard: Guard, vm: Vm) -> None:
    with started(guard, vm) as qemu:
        for wanted in (vm.name, vm.uuid):
            check = guard.vmguard("check", wanted)
            assert (check.status, check.err) == (0, "")
            assert check.out.startswith("OK: VM 'web'")
        status = guard.vmguard("status", "--json")
        assert status.status == 0
        [shown] = json.loads(status.out)["vms"]
        assert {file["guard"] for file in shown["files"]} == {"pinned"}
        who = guard.vmguard("who", str(vm.disks[0]))
        assert who.status == 0
        assert "guarded here by VM 'web' (running)" in who.out
        assert f"(pid {qemu.pid})" in who.out


def test_check_status_and_who_while_the_daemon_is_down(guard: Guard, vm: Vm) -> None:
    with started(guard, vm):
        guard.kill()
        status = guard.vmguard("status")
        assert status.status == 2
        assert status.out.startswith("CRITICAL: the vmguard daemon does not run: VM 'web' keeps its locks")
        check = guard.vmguard("check", "web")
        assert check.status == 2
        assert check.out.splitlines()[0] == status.out.splitlines()[0]
        assert guard.vmguard("who", str(vm.disks[0])).status == 2


def test_check_of_a_vm_that_is_off_or_unknown(guard: Guard, vm: Vm) -> None:
    (guard.folder / "domains" / "web.xml").write_bytes(vm.xml())
    assert guard.vmguard("check", "web").out.startswith("OK: ")
    unknown = guard.vmguard("check", "nobody")
    assert unknown.status == 3
    assert "no VM 'nobody' is known" in unknown.err


def test_a_running_vm_that_nobody_guards_is_critical(guard: Guard, vm: Vm) -> None:
    (guard.folder / "domains" / "web.xml").write_bytes(vm.xml())
    with FakeQemu(guard.libvirt_dir, vm, locking=False):
        check = guard.vmguard("check", "web")
        assert check.status == 2
        assert "UNGUARDED" in check.out
