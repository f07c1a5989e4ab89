"""The contract between libvirt and its qemu hook, checked on the real shim: what each operation does, and what our own
failure does to it. One sentence of it is worth more than the rest: nothing of ours may ever kill a running VM.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import faulty_libc
from tests.support.guard import REPOSITORY, Answer, Guard, Vm, eventually, holders_of, locks_on, make_disk, run
from tests.support.namespaces import Space
from vmguard.hook import operations

pytestmark = pytest.mark.process

WORKLESS = sorted(name for name, row in operations.LIBVIRT.items() if row.action == operations.NOTHING)
UNKNOWN = ("attach2", "begin", "", "-", "PREPARE", "prepare ", "*", "re lease")
#: libvirt kills the running VM when the hook fails here
MUST_NEVER_FAIL = ("reconnect", "started", "stopped", *UNKNOWN)
NAMES = (
    *("-rf", "--help", "-", "two words", "it's", 'say "hi"', "a&b <c>"),
    *("näme", "仮想", "$(reboot)", "`id`", "*", "a\\b"),
)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with Guard(tmp_path_factory.mktemp("contract")) as guard:
        yield guard


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """Nobody stands by for its starts: each hook is a process of its own, which a test can look into."""
    with Guard(tmp_path_factory.mktemp("alone"), hook={"standby": False}) as guard:
        yield guard


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm("web", [make_disk(tmp_path / f"disk{number}.raw") for number in range(3)])


def assert_nothing_happened(guard: Guard, vm: Vm) -> None:
    assert eventually(lambda: guard.nothing_left(*vm.disks)), guard.leftovers(*vm.disks)


def assert_silent_success(answer: Answer) -> None:
    assert (answer.status, answer.out, answer.err) == (0, "", "")


# -- the table ------------------------------------------------------------------------------------------------------


def test_the_shim_lets_through_what_the_table_has_work_for() -> None:
    shim = (REPOSITORY / "hooks/qemu").read_text()
    branches = re.findall(r"^(\S+)\) (.*);;$", shim, re.MULTILINE)
    work = {name for name, command in branches if not command.strip()}
    assert work == {name for name, row in operations.LIBVIRT.items() if row.action != operations.NOTHING}
    assert [(name, command.strip()) for name, command in branches if command.strip()] == [("*", "exit 0")]


def test_only_a_start_is_ever_refused() -> None:
    assert [name for name, row in operations.LIBVIRT.items() if row.on_failure == operations.REFUSE] == [
        "prepare",
        "restore",  # a start, too
    ]
    assert operations.row("what libvirt 20 will call").on_failure == operations.PASS


@pytest.mark.parametrize("operation", [*WORKLESS, *UNKNOWN])
def test_an_event_without_work_is_let_pass_without_python_or_daemon(tmp_path: Path, operation: str) -> None:
    guard = Guard(tmp_path)
    patch(guard.hook_file, VMGUARD_PYTHON="/nowhere/python3")
    answer = guard.hook(operation, Vm("web", []).xml())
    assert_silent_success(answer)
    assert answer.seconds < 1


def test_the_whole_life_of_a_vm_prints_nothing_and_leaves_nothing(guard: Guard, vm: Vm) -> None:
    for operation in ("migrate", "restore", "prepare", "start", "started", "reconnect", "attach", "stopped"):
        assert_silent_success(guard.hook(operation, vm.xml()))
        # an event without work neither takes nor frees a lock
        assert bool(locks_on(*vm.disks)) is (operation not in ("migrate", "restore")), operation
    assert_silent_success(guard.hook("release", vm.xml(), words=("end", "destroyed")))
    assert_nothing_happened(guard, vm)


def test_a_hook_called_with_too_few_words_does_nothing(guard: Guard) -> None:
    assert_silent_success(run(guard.hook_command(), env=guard.hook_environment()))
    assert_silent_success(run(guard.hook_command("web"), env=guard.hook_environment()))


# -- everything is broken -------------------------------------------------------------------------------------------


def patch(hook: Path, **words: str) -> None:
    text = hook.read_text()
    for name, value in words.items():
        text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
    hook.write_text(text)


@pytest.fixture(params=["no daemon", "no modules", "half the modules", "no state directory", "a stranger's socket"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Guard:
    guard = Guard(tmp_path)
    guard.run_dir.mkdir()
    if request.param == "no modules":
        patch(guard.hook_file, VMGUARD_LIB="/nowhere")
    elif request.param == "half the modules":
        shutil.copytree(REPOSITORY / "vmguard" / "hook", tmp_path / "lib/vmguard/hook")
        patch(guard.hook_file, VMGUARD_LIB=str(tmp_path / "lib"))
    elif request.param == "no state directory":
        guard.run_dir.rmdir()
    elif request.param == "a stranger's socket":
        (guard.run_dir / "vmguard.sock").write_text("not a socket")
    return guard


@pytest.mark.parametrize("operation", MUST_NEVER_FAIL)
def test_where_a_failure_would_kill_nothing_can_make_us_fail(broken: Guard, operation: str) -> None:
    for stdin in (b"", b"garbage", bytes(100), b"<domain>", b"<domain/>"):
        answer = broken.hook(operation, stdin)
        assert (answer.status, answer.out) == (0, ""), stdin
        assert answer.seconds < 5


@pytest.mark.parametrize("stdin", [b"", b"garbage", bytes(100), b"<domain/>"], ids=repr)
def test_a_release_without_a_daemon_passes(tmp_path: Path, stdin: bytes) -> None:
    answer = Guard(tmp_path).hook("release", stdin)
    assert (answer.status, answer.out) == (0, "")


def test_a_start_is_refused_while_anything_is_broken(broken: Guard, vm: Vm) -> None:
    answer = broken.hook("prepare", vm.xml())
    assert answer.status == 1
    assert answer.out == ""
    assert answer.err
    assert not locks_on(*vm.disks)


@pytest.mark.parametrize("stdin", [b"", b"garbage", b"<domain>", b"<domain><name>x</name></domain>"], ids=repr)
def test_a_start_with_a_document_that_is_none_is_refused_in_words(guard: Guard, vm: Vm, stdin: bytes) -> None:
    answer = guard.hook("prepare", stdin)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith("vmguard: ")
    assert "Traceback" not in answer.err
    assert_nothing_happened(guard, vm)


def test_a_missing_installation_says_what_to_do(tmp_path: Path, vm: Vm) -> None:
    guard = Guard(tmp_path)
    patch(guard.hook_file, VMGUARD_LIB="/nowhere")
    answer = guard.hook("prepare", vm.xml())
    assert answer.status == 1
    assert "not installed at /nowhere" in answer.err
    assert "reinstall vmguard" in answer.err


# -- the daemon is absent: the admin's choice -----------------------------------------------------------------------

_PRIVATE_ETC = """
mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
mkdir /mnt/lib /mnt/lib-work
mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/lib,workdir=/mnt/lib-work none /var/lib
rm -rf /etc/vmguard /var/lib/vmguard; mkdir /etc/vmguard
"""


@pytest.fixture(scope="module")
def etc() -> Iterator[Space]:
    with Space(_PRIVATE_ETC) as space:
        yield space


def start_without_daemon(folder: Path, etc: Space, vm: Vm, config: str) -> Answer:
    guard = Guard(folder, prefix=etc.prefix)
    (etc.root / "etc/vmguard/vmguard.yaml").write_text(config)
    return guard.hook("prepare", vm.xml())


@pytest.mark.parametrize("config", ["", "hook: {daemon_absent: refuse}"])
def test_without_a_daemon_a_start_is_refused_with_the_reason(tmp_path: Path, etc: Space, vm: Vm, config: str) -> None:
    answer = start_without_daemon(tmp_path, etc, vm, config)
    assert (answer.status, answer.out) == (1, "")
    assert "VM 'web' is not started, because its disks cannot be guarded" in answer.err
    assert f"no socket {tmp_path}/run/vmguard.sock" in answer.err
    assert "systemctl start vmguard" in answer.err
    assert not locks_on(*vm.disks)


def test_without_a_daemon_a_start_passes_if_the_admin_wants_it(tmp_path: Path, etc: Space, vm: Vm) -> None:
    assert_silent_success(start_without_daemon(tmp_path, etc, vm, "hook: {daemon_absent: allow}"))
    assert not locks_on(*vm.disks)


@pytest.mark.parametrize("config", ["hook: {daemon_absent: perhaps}", "hook: [", "hook: {daemon_absnt: allow}"])
def test_without_a_daemon_a_wrong_configuration_allows_nothing(tmp_path: Path, etc: Space, vm: Vm, config: str) -> None:
    answer = start_without_daemon(tmp_path, etc, vm, config)
    assert (answer.status, answer.out) == (1, "")
    assert "/etc/vmguard/vmguard.yaml" in answer.err


@pytest.mark.parametrize("operation", MUST_NEVER_FAIL)
def test_a_wrong_configuration_kills_no_running_vm(tmp_path: Path, etc: Space, vm: Vm, operation: str) -> None:
    guard = Guard(tmp_path, prefix=etc.prefix)
    (etc.root / "etc/vmguard/vmguard.yaml").write_text("hook: {daemon_absent: perhaps}")
    assert guard.hook(operation, vm.xml()).status == 0


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_whatever_it_looks_like(guard: Guard, vm: Vm, name: str) -> None:
    vm.name = name
    assert_silent_success(guard.hook("prepare", vm.xml(), name=name))
    assert guard.states() == {name: "claimed"}
    refused = guard.hook("prepare", Vm("rival", vm.disks).xml(), name="rival")
    assert refused.status == 1
    assert str(vm.disks[0]) in refused.err
    for operation in (*WORKLESS, "release"):
        assert_silent_success(guard.hook(operation, vm.xml(), name=name))
    assert_nothing_happened(guard, vm)


def test_a_name_with_a_line_break_forges_no_line_anywhere(guard: Guard, vm: Vm) -> None:
    vm.name = "web\nERROR forged"
    xml = vm.xml().replace(b"web\nERROR", b"web&#10;ERROR")
    answer = guard.hook("prepare", xml, name=vm.name)
    assert answer.out == ""
    assert not re.search(r"^ERROR forged", answer.err + guard.log, re.MULTILINE)
    assert_silent_success(guard.hook("release", xml, name=vm.name))
    assert_nothing_happened(guard, vm)


# -- what the storage answers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return faulty_libc.build(tmp_path_factory.mktemp("answers"))


def claim_with(guard: Guard, vm: Vm, library: str, **words: int) -> Answer:
    environment = {"LD_PRELOAD": library, **{name: str(value) for name, value in words.items()}}
    return run(
        guard.hook_command(vm.name, "prepare", "begin", "-"), vm.xml(), {**guard.hook_environment(), **environment}
    )


@pytest.mark.parametrize("from_call", [1, 2, 3, 4, 5, 9], ids=lambda number: f"from call {number} on")
@pytest.mark.parametrize("word", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EIO"])
def test_a_storage_that_gives_no_locks(alone: Guard, vm: Vm, library: str, word: str, from_call: int) -> None:
    answer = claim_with(alone, vm, library, ANSWER=getattr(errno, word), FROM_CALL=from_call)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith("vmguard: ")
    if word != "EIO" and from_call <= len(vm.disks):
        assert word in answer.err
        in_order = sorted(vm.disks, key=lambda disk: disk.stat().st_ino)  # as every claim locks them
        assert str(in_order[from_call - 1]) in answer.err
    assert_nothing_happened(alone, vm)


def test_a_storage_that_does_not_answer_holds_the_hook_no_longer_than_allowed(
    alone: Guard, vm: Vm, library: str
) -> None:
    answer = claim_with(alone, vm, library, SLOW_LOCKS=30_000)
    assert (answer.status, answer.out) == (1, "")
    assert "the storage did not answer in time while locking the disks" in answer.err
    assert answer.seconds < 3
    assert_nothing_happened(alone, vm)


def test_negative_control_the_same_claim_with_a_storage_that_gives_them(alone: Guard, vm: Vm, library: str) -> None:
    assert_silent_success(claim_with(alone, vm, library))
    assert locks_on(*vm.disks)
    alone.hook("release", vm.xml())
    assert_nothing_happened(alone, vm)


def test_a_start_waits_for_its_owner_records(alone: Guard, vm: Vm, library: str) -> None:
    """Their epoch is a fencing token: it is on the storage before the VM can write."""
    answer = claim_with(alone, vm, library, SLOW_WRITES=700)
    assert_silent_success(answer)
    assert answer.seconds > 0.7 * len(vm.disks)
    for disk in vm.disks:
        assert (disk.parent / ".vmguard" / f"{disk.stat().st_ino}.owner").stat().st_size == 1024
    assert alone.hook("release", vm.xml()).status == 0
    assert eventually(lambda: alone.nothing_left(*vm.disks), 8), alone.leftovers(*vm.disks)


# -- no room --------------------------------------------------------------------------------------------------------


def test_a_full_run_directory_refuses_the_start_and_locks_nothing(tmp_path: Path, vm: Vm) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with Space(f"mount -t tmpfs -o size=64k,mode=700 none {run_dir}") as space, Guard(tmp_path, space.prefix) as guard:
        inside = space.root / str(run_dir).lstrip("/")
        ballast = inside / "ballast"
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], stderr=subprocess.DEVNULL)  # until it is full
        for _ in range(3):
            answer = guard.hook("prepare", vm.xml())
            assert (answer.status, answer.out) == (1, "")
            assert "the state of VM 'web' cannot be written" in answer.err
            assert "No space left on device" in answer.err
            assert eventually(lambda: not locks_on(*vm.disks) and not holders_of(*vm.disks))
            assert os.listdir(inside / "vms") == []
        ballast.unlink()
        assert_silent_success(guard.hook("prepare", vm.xml()))
        assert locks_on(*vm.disks)


# -- root is squashed -----------------------------------------------------------------------------------------------

_SQUASHED = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")
_NOBODY = 65534


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """A disk in a folder that only its owner may enter; the path to it is open to all, unlike pytest's own."""
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))
    top.chmod(0o755)
    folder = top / "share"
    folder.mkdir(mode=0o700)
    disk = make_disk(folder / "disk.raw")
    disk.chmod(0o600)
    for path in (folder, disk):
        os.chown(path, _NOBODY, _NOBODY)
    yield disk
    shutil.rmtree(top)


@pytest.mark.parametrize(("user", "status"), [("nobody", 0), ("daemon", 1)])
def test_a_root_without_rights_opens_the_disk_as_qemu_would(
    tmp_path: Path, foreign: Path, user: str, status: int
) -> None:
    vm = Vm("web", [foreign])
    with Guard(tmp_path, libvirt={"qemu_user": user}) as guard:
        command = [*_SQUASHED, *guard.hook_command(vm.name, "prepare", "begin", "-")]
        answer = run(command, vm.xml(), guard.hook_environment())
        assert (answer.status, answer.out) == (status, "")
        assert bool(locks_on(foreign)) is (status == 0)
        assert ("permission denied (EACCES)" in answer.err) is (status == 1)
        guard.hook("release", vm.xml())
        assert_nothing_happened(guard, vm)


# -- quick to start -------------------------------------------------------------------------------------------------

#: each of these costs a start between 1 and 20 ms
_SLOW = "typing dataclasses enum re json collections socket logging yaml functools subprocess argparse pathlib"
_NOTE_MODULES = """
import atexit, os, sys
def note():
    fd = os.open({file!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, "".join(name + chr(10) for name in sys.modules).encode())
def leave(status, leave=os._exit): note(); leave(status)
os._exit = leave
atexit.register(note)
"""


@pytest.mark.parametrize("operation", ["prepare", "release"])
def test_the_good_path_imports_nothing_slow(alone: Guard, vm: Vm, tmp_path: Path, operation: str) -> None:
    modules = tmp_path / "modules"
    wrapper = tmp_path / "python"
    (tmp_path / "note.py").write_text(_NOTE_MODULES.format(file=str(modules)))
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-IS -c" ] || exit 99\ncode=$3; shift 3\n'
        f'exec {sys.executable} -IS -c "$(cat {tmp_path}/note.py)\n$code" "$@"\n'
    )
    wrapper.chmod(0o755)
    hook = tmp_path / "qemu"
    hook.write_text(alone.hook_file.read_text())
    hook.chmod(0o755)
    patch(hook, VMGUARD_PYTHON=str(wrapper))
    assert_silent_success(run([str(hook), "web", operation, "begin", "-"], vm.xml(), alone.hook_environment()))
    wanted = {"prepare": "vmguard.adapters.storage.owner_record", "release": "vmguard.hook.libvirt"}[operation]
    assert eventually(lambda: modules.exists() and wanted in modules.read_text().split()), "not at its end"
    time.sleep(0.1)
    loaded = set(modules.read_text().split())
    assert not loaded & set(_SLOW.split())
    assert {name for name in loaded if name.startswith("vmguard.config")} == set()
    alone.hook("release", vm.xml())
    assert_nothing_happened(alone, vm)
