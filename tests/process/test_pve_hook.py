"""The contract between Proxmox and its hookscript, on the real shim, called as exec_hookscript does."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pve.inside.hooks import HookFailed, exec_hookscript
from tests.support.guard import REPOSITORY, Guard, eventually, holders_of, locks_on, make_disk
from tests.support.processes import track
from vmguard.adapters.linux import proc
from vmguard.cli.hook_script import text as hook_text
from vmguard.hook import operations

pytestmark = pytest.mark.process

SLOW = "typing dataclasses enum re json collections socket logging yaml functools subprocess argparse pathlib signal"
WORKER = "task UPID:node:0:0:0:qmstart:100:root@pam:"


class Node:
    """A Proxmox node of a test's own: /etc/pve, snippets and a daemon in one folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.pve, self.qemu_run, self.images = folder / "pve", folder / "qemu-server", folder / "store/images/100"
        self.name = os.uname().nodename.partition(".")[0]
        (self.pve / "nodes" / self.name / "qemu-server").mkdir(parents=True)
        self.qemu_run.mkdir()
        self.images.mkdir(parents=True)
        self.disk = make_disk(self.images / "vm-100-disk-0.raw")
        (self.pve / "storage.cfg").write_text(f"dir: store\n\tpath {folder / 'store'}\n")
        self.write("name: web\nscsi0: store:100/vm-100-disk-0.raw\n")
        self.hook_file = folder / "vmguard"
        self.hook_file.write_text(hook_text("proxmox"))
        self.hook_file.chmod(0o755)
        places = {"run_dir": str(self.qemu_run), "config_dir": str(self.pve)}
        self.guard = Guard(folder, proxmox={"lock_wait": "1s", **places, **settings})

    def write(self, config: str, vmid: str = "100", node: str = "") -> None:
        folder = self.pve / "nodes" / (node or self.name) / "qemu-server"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{vmid}.conf").write_text(config)

    @property
    def env(self) -> dict[str, str]:
        ours = {"VMGUARD_RUN_DIR": str(self.guard.run_dir), "VMGUARD_PVE_DIR": str(self.pve)}
        return {"PATH": os.environ["PATH"], "PVE_MIGRATED_FROM": "", **ours}

    def phase(self, phase: str, vmid: str = "100", **env: str) -> str:
        """Raises HookFailed where Proxmox would end the start."""
        return exec_hookscript(str(self.hook_file), vmid, phase, phase == "pre-start", {**self.env, **env})

    def task(self, *phases: str) -> subprocess.Popen[bytes]:
        """A task's worker that runs these phases and lives on until its stdin ends."""
        code = (
            "import sys; from tests.pve.inside.hooks import exec_hookscript\n"
            f"open('/proc/self/comm', 'w').write({WORKER[:15]!r})\n"
            f"for phase in {phases!r}: exec_hookscript({str(self.hook_file)!r}, '100', phase, phase == 'pre-start')\n"
            "print('done', flush=True); sys.stdin.read()"
        )
        env = {**os.environ, **self.env, "PYTHONPATH": str(REPOSITORY)}
        return track(
            subprocess.Popen(
                [WORKER, "-c", code], executable=sys.executable, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )

    def is_free(self) -> bool:
        return self.guard.nothing_left(self.disk)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    with node.guard:
        yield node


# -- the table ------------------------------------------------------------------------------------------------------


def test_the_shim_lets_through_what_the_table_has_work_for() -> None:
    shim = (REPOSITORY / "hooks/vmguard-hookscript").read_text()
    branches = re.findall(r"^(\S+)\) (.*);;$", shim, re.MULTILINE)
    work = {name for name, command in branches if not command.strip()}
    assert work == {name for name, row in operations.PROXMOX.items() if row.action != operations.NOTHING}
    assert {name for name, command in branches if command.strip()} == {"*"}


def test_only_a_start_is_ever_refused() -> None:
    assert [name for name, row in operations.PROXMOX.items() if row.on_failure == operations.REFUSE] == ["pre-start"]
    assert operations.row("pre-hibernate", operations.PROXMOX).on_failure == operations.PASS


@pytest.mark.parametrize("phase", ["pre-stop", "pre-hibernate", "", "PRE-START", "*", "pre start"])
def test_a_phase_without_work_passes_without_python(tmp_path: Path, phase: str) -> None:
    node = Node(tmp_path)
    script = re.sub(r"^VMGUARD_PYTHON=.*$", "VMGUARD_PYTHON=/nowhere", node.hook_file.read_text(), flags=re.MULTILINE)
    node.hook_file.write_text(script)
    assert node.phase(phase) == ""
    assert exec_hookscript(str(node.hook_file), "100", phase, True, node.env) == ""


def test_a_whole_life_says_nothing_and_locks_the_file(node: Node) -> None:
    assert node.phase("pre-start") == ""
    locks = sorted(locks_on(node.disk), key=lambda lock: lock.start)  # byte 299 is for the target of a migration
    assert [(lock.kind, lock.exclusive, lock.start, lock.end) for lock in locks] == [
        ("OFDLCK", True, 0, "298"),
        ("OFDLCK", True, 300, "EOF"),
    ]
    (vm,) = node.guard.status()
    assert (vm["hypervisor"], vm["uuid"], vm["name"]) == ("proxmox", "100", "web")
    for phase in ("post-start", "pre-stop", "post-stop"):
        assert node.phase(phase) == ""
        assert locks_on(node.disk), f"{phase} is no proof of anything"


# -- the start is over when its task is ------------------------------------------------------------------------------


def test_a_claim_is_let_go_of_when_its_task_ended_without_a_qemu(node: Node) -> None:
    task = node.task("pre-start")
    assert task.stdout is not None
    assert task.stdout.readline() == b"done\n"
    time.sleep(2.5)
    assert locks_on(node.disk), "the task lives: QEMU may still come"
    task.kill()
    task.communicate()
    assert eventually(node.is_free, 8), node.guard.leftovers(node.disk)


def test_a_leftover_of_the_same_vm_on_this_node_is_no_obstacle(node: Node) -> None:
    node.phase("pre-start")
    node.phase("pre-start")
    assert len(node.guard.status()) == 1


# -- everything is broken --------------------------------------------------------------------------------------------


@pytest.fixture(params=["no daemon", "no modules", "no config", "no storage", "garbage", "no such phase of a VM"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    node = Node(tmp_path)
    if request.param == "no modules":
        script = re.sub(r"^VMGUARD_LIB=.*$", "VMGUARD_LIB=/nowhere", node.hook_file.read_text(), flags=re.MULTILINE)
        node.hook_file.write_text(script)
    elif request.param == "no config":
        shutil.rmtree(node.pve / "nodes")
    elif request.param == "no storage":
        (node.pve / "storage.cfg").write_text("")
    elif request.param == "garbage":
        (node.pve / "nodes" / node.name / "qemu-server/100.conf").write_bytes(bytes(64))
    return node


def test_a_start_is_refused_in_words_and_no_other_phase_is(broken: Node) -> None:
    with pytest.raises(HookFailed) as refused:
        broken.phase("pre-start")
    assert "vmguard: " in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert not locks_on(broken.disk)
    for phase in ("post-start", "pre-stop", "post-stop", "what-else"):
        assert "WARN" not in broken.phase(phase)


@pytest.mark.parametrize("vmid", ["", "0", "99", "../100", "100 ", "-rf"])
def test_what_is_no_vmid_is_refused(node: Node, vmid: str) -> None:
    with pytest.raises(HookFailed):
        node.phase("pre-start", vmid)


def test_a_vm_that_migrates_here_is_read_from_its_sources_folder(node: Node) -> None:
    """The configuration moves only at the switch; the daemon's and the disks' part is in test_incoming.py."""
    ours = node.pve / "nodes" / node.name / "qemu-server/100.conf"
    node.write(ours.read_text(), node="other")
    ours.unlink()
    with pytest.raises(HookFailed):
        node.phase("pre-start", PVE_MIGRATED_FROM="")
    node.phase("pre-start", PVE_MIGRATED_FROM="other")
    assert locks_on(node.disk)


# -- waiting ---------------------------------------------------------------------------------------------------------


def waiting(node: Node, wait: str) -> subprocess.Popen[bytes]:
    """A start that waits for a lock of somebody else's, as a process of its own."""
    node.guard.configure(proxmox={"run_dir": str(node.qemu_run), "lock_wait": wait})
    node.guard.stop()
    node.guard.start()
    return track(
        subprocess.Popen(
            [str(node.hook_file), "100", "pre-start"], env=node.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    )


def test_a_start_waits_for_a_lock_and_says_for_whom(node: Node) -> None:
    with Rival(node.disk) as rival:
        hook = waiting(node, "20s")
        assert hook.stdout is not None
        line = hook.stdout.readline().decode()
        assert f"waiting for disk {node.disk}: locked by a process of this host: python" in line
        assert "trying for" in line
        rival.end()
        assert hook.wait(10) == 0
        hook.stdout.close()
    assert locks_on(node.disk)


def test_the_wait_is_bounded(node: Node) -> None:
    with Rival(node.disk):
        began = time.monotonic()
        with pytest.raises(HookFailed) as refused:
            node.phase("pre-start")
        assert 1 <= time.monotonic() - began < 6
        assert "is locked by a process of this host" in str(refused.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_task_ends_the_wait_at_once(node: Node, number: signal.Signals) -> None:
    with Rival(node.disk):
        hook = waiting(node, "60s")
        assert hook.stdout is not None
        assert hook.stdout.readline()
        began = time.monotonic()
        hook.send_signal(number)
        assert hook.stdout.read() == b""  # both pipes are at their end: Proxmox waits for nothing any more
        hook.wait(5)
        hook.stdout.close()
        assert time.monotonic() - began < 2
        assert eventually(lambda: len(holders_of(node.disk)) == 1), "only the rival has it open"
    assert eventually(node.is_free), node.guard.leftovers(node.disk)


class Rival:
    """A process that holds the lock."""

    def __init__(self, disk: Path) -> None:
        code = (
            "import fcntl, os, struct, sys; fd = os.open(sys.argv[1], os.O_RDWR)\n"
            "fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))\n"
            "print('locked', flush=True); sys.stdin.read()"
        )
        self.process = track(
            subprocess.Popen(
                [sys.executable, "-IS", "-c", code, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def __enter__(self) -> Rival:
        return self

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __exit__(self, *_: object) -> None:
        self.end()


# -- the storage is not there ----------------------------------------------------------------------------------------


def test_a_bare_mount_point_is_never_locked(tmp_path: Path) -> None:
    node = Node(tmp_path, mount_wait="1s")
    storages = f"dir: store\n\tpath {tmp_path / 'store'}\n\tis_mountpoint yes\n"
    for text in (storages, f"nfs: store\n\tserver x\n\texport /x\n\tpath {tmp_path / 'store'}\n"):
        (node.pve / "storage.cfg").write_text(text)
        with node.guard, pytest.raises(HookFailed) as refused:
            node.phase("pre-start")
        assert f"storage 'store' is not mounted on {tmp_path / 'store'} (waited 1 s)" in str(refused.value)
        assert not locks_on(node.disk)


# -- a hookscript that was there before ------------------------------------------------------------------------------


def chain(node: Node, status: int = 0) -> Path:
    script = node.pve.parent / "own.sh"
    script.write_text(f'#!/bin/sh\necho "own $1 $2 [$PVE_MIGRATED_FROM]"\nexit {status}\n')
    script.chmod(0o755)
    (node.pve / "vmguard.cfg").write_text(f"100 local:snippets/own.sh {script}\n")
    return script


def test_a_vms_own_hookscript_runs_in_every_phase(node: Node) -> None:
    chain(node)
    for phase in ("pre-start", "post-start", "pre-stop", "post-stop", "some-day"):
        assert node.phase(phase) == f"own 100 {phase} []\n"
    node.write("name: other\n", "101")
    assert node.phase("pre-start", "101") == ""


def test_its_failure_counts_as_before_and_it_never_runs_on_disks_of_others(node: Node) -> None:
    chain(node, 3)
    with pytest.raises(HookFailed) as failed:
        node.phase("pre-start")
    assert "exit code 3" in str(failed.value)
    (node.pve.parent / "other").mkdir()
    other = Node(node.pve.parent / "other")
    chain(other)
    with other.guard, Rival(other.disk), pytest.raises(HookFailed) as refused:
        other.phase("pre-start")
    assert "own 100" not in str(refused.value)


def test_one_that_is_gone_fails_the_start(node: Node) -> None:
    chain(node).unlink()
    with pytest.raises(HookFailed) as failed:
        node.phase("pre-start")
    assert "own hookscript" in str(failed.value)


# -- quick to start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["pre-start", "post-start", "post-stop"])
def test_the_good_path_imports_nothing_slow(node: Node, tmp_path: Path, phase: str) -> None:
    from tests.process.test_hook_contract import _NOTE_MODULES

    modules, wrapper = tmp_path / "modules", tmp_path / "python"
    (tmp_path / "note.py").write_text(_NOTE_MODULES.format(file=str(modules)))
    wrapper.write_text(
        f'#!/bin/sh\ncode=$3; shift 3\nexec {sys.executable} -IS -c "$(cat {tmp_path}/note.py)\n$code" "$@"\n'
    )
    wrapper.chmod(0o755)
    script = re.sub(r"^VMGUARD_PYTHON=.*$", f"VMGUARD_PYTHON={wrapper}", node.hook_file.read_text(), flags=re.MULTILINE)
    node.hook_file.write_text(script)
    assert node.phase(phase) == ""
    wanted = "vmguard.adapters.storage.owner_record" if phase == "pre-start" else "vmguard.hook.proxmox"
    assert eventually(lambda: modules.exists() and wanted in modules.read_text().split())
    time.sleep(0.1)
    assert not set(modules.read_text().split()) & set(SLOW.split())


def test_a_shared_lock_under_a_read_delegation_is_seen() -> None:
    """As a lab guest (6.1) showed it for an OFD lock on a read-only descriptor."""
    lines = ["1: POSIX  ADVISORY  READ 819 00:1f:131074 0 EOF", "2: POSIX  ADVISORY  WRITE 819 00:1f:131074 0 0"]
    assert proc.lock_ranges(proc.FdInfo(0, 1, 131074, lines)) == [(False, 0, 0)]
