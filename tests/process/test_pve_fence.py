"""The end of a VM on Proxmox: swtpm and qemu-storage-daemon are writers, too; qm is told last, and only if need be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fencer_harness import World
from tests.support.guard import eventually
from tests.support.processes import track
from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import may_block, proc, spawn
from vmguard.core import PROXMOX
from vmguard.core.sources.process_arguments import Kind, identity, served
from vmguard.core.watchdog.events import Cause
from vmguard.core.watchdog.policy import AfterFence, Policy
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.jobs import hypervisor

pytestmark = pytest.mark.process

#: as QemuServer.pm (start_swtpm) and QSD.pm call them, on a folder of the test's own
SWTPM = (
    "swtpm",
    "socket",
    "--tpmstate",
    "backend-uri=file:///mnt/x.raw,mode=0600",
    "--pid",
    "file={run}/100.swtpm.pid",
)
QSD = ("qemu-storage-daemon", "--daemonize", "--chardev", "socket,id=qmp,path=/var{run}/qsd-100.qmp")
_SLEEP = "import sys; sys.stdin.read()"


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for child in made:
        child.kill()
        child.communicate()


def program(folder: Path, words: tuple[str, ...], children: list[subprocess.Popen[bytes]]) -> int:
    """A process that looks like this from outside."""
    given = [word.replace("{run}", str(folder / "qemu-server")) for word in words]
    child = track(
        subprocess.Popen([given[0], "-IS", "-c", _SLEEP, *given[1:]], executable=sys.executable, stdin=subprocess.PIPE)
    )
    children.append(child)
    assert eventually(lambda: may_block.cmdline(child.pid)[-1:] == given[-1:])
    return child.pid


def helpers_of(run: Path, vmid: str) -> list[tuple[int, Kind]]:
    """As the daemon finds them: a pid from a file, and then that process's arguments."""
    known, found = hypervisors.by_name(PROXMOX), []
    for pid, kind in known.helper_pids(RunDirs("", str(run)), vmid):
        line = may_block.command_line(pid)
        if line is not None and known.is_helper_of(line, kind, vmid):
            found.append((pid, kind))
    return found


# -- who belongs to a VM --------------------------------------------------------------------------------------------


def test_proxmox_files_name_the_vm_of_a_helper() -> None:
    for words in (SWTPM, QSD, ("swtpm", "--ctrl", "type=unixio,path=/var/run/qemu-server/100.swtpm,mode=0600")):
        assert served([word.replace("{run}", "/run/qemu-server") for word in words]).vmids == {"100"}
    assert served(["swtpm", "--log", "file=/run/qemu-server/99.swtpm", "/mnt/images/101/a.raw"]).vmids == frozenset()
    assert identity(["kvm", "-pidfile", "/var/run/qemu-server/100.pid"]).vmid == "100"


def test_helpers_are_found_by_their_pid_files_and_by_what_they_are(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    run = tmp_path / "qemu-server"
    run.mkdir()
    swtpm, qsd = program(tmp_path, SWTPM, children), program(tmp_path, QSD, children)
    stranger = program(tmp_path, ("sleep", "1"), children)
    (run / "100.swtpm.pid").write_text(f"{swtpm}\n")
    (run / "qsd-100.pid").write_text(f"{qsd}\n")
    assert helpers_of(run, "100") == [(swtpm, Kind.SWTPM), (qsd, Kind.STORAGE_DAEMON)]
    assert helpers_of(run, "101") == []
    (run / "100.swtpm.pid").write_text(f"{stranger}\n")  # an old file, and its number is somebody else's now
    (run / "qsd-100.pid").write_text("garbage")
    assert helpers_of(run, "100") == []
    (run / "101.swtpm.pid").write_text(f"{swtpm}\n")  # the swtpm of another VM
    assert helpers_of(run, "101") == []


# -- the rungs behind the release -----------------------------------------------------------------------------------


class Node:
    """A fencer, and a qm that writes down how it is called."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.calls = world.folder / "calls"
        self.pid_file = world.folder / "qemu-server/100.pid"
        self.pid_file.parent.mkdir()
        self.pid_file.write_text("1\n")
        self.qm("exit 0")
        systemd_run = world.folder / "systemd-run"  # where systemd runs this machine
        systemd_run.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
        systemd_run.chmod(0o755)
        monkeypatch.setattr(spawn, "PATH", f"{world.folder}:{spawn.PATH}")

    def qm(self, does: str) -> None:
        script = self.world.folder / "qm"
        script.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n{does}\n')
        script.chmod(0o755)

    def fence(self, after: AfterFence = AfterFence.OFF) -> GuardedVm:
        """All the way to the release."""
        vm = self.world.vm()
        self.world.registry.remove(vm)
        vm.hypervisor, vm.uuid = PROXMOX, "100"
        self.world.registry.add(vm)
        self.world.fencer.begin(vm, "the lock is lost", Cause.LOST, Policy(after_fence=after))
        assert self.world.turn(lambda: proc.is_dead(vm.pidfd))
        assert self.called == [], "nobody is asked before the VM is dead"
        self.world.ended(vm)
        vm.drained = True
        assert self.world.turn(lambda: "fence.release" in self.world.codes)
        assert self.called == []
        self.world.release(vm)
        return vm

    @property
    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    @property
    def is_done(self) -> bool:
        return "fence.done" in self.world.codes


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    world = World(tmp_path)
    yield Node(world, monkeypatch)
    world.close()


def test_qmeventd_cleans_up_by_itself_and_nobody_is_called(node: Node) -> None:
    node.fence()
    node.pid_file.unlink()
    assert node.world.turn(lambda: node.is_done)
    assert node.called == []


def test_an_end_that_nobody_noticed_is_cleaned_up_through_qm(node: Node) -> None:
    node.qm(f"rm {node.pid_file}")
    node.fence()
    assert node.world.turn(lambda: node.is_done)
    assert node.called == ["cleanup 100 0 0"]


def test_a_qm_that_fails_is_asked_again_then_reported_and_the_fence_ends(node: Node) -> None:
    node.qm("exit 255")
    node.fence()
    assert node.world.turn(lambda: node.is_done)
    assert len(node.called) > 1
    assert "the hypervisor does not confirm that it is off" in node.world.reports[-1].sentence


def test_the_restart_is_an_ordinary_start_through_qm(node: Node) -> None:
    node.pid_file.unlink()
    node.fence(AfterFence.RESTART)
    assert node.world.turn(lambda: node.is_done)
    assert node.called == ["start 100"]


def test_a_vm_that_ha_has_started_already_is_not_started_twice(
    node: Node, children: list[subprocess.Popen[bytes]]
) -> None:
    folder = node.world.folder
    pid = program(folder, ("kvm", "-pidfile", "{run}/100.pid"), children)
    node.pid_file.write_text(f"{pid}\n")
    run_dirs = RunDirs("", str(node.pid_file.parent))
    assert hypervisors.qemu_pid(run_dirs, PROXMOX, "", "100", may_block.cmdline) == pid
    node.fence(AfterFence.RESTART)
    assert node.world.turn(lambda: node.is_done)
    assert node.called == []
    assert not proc.is_dead(os.pidfd_open(pid)), "the new one is no business of that fence"


def test_qm_starts_qemu_itself_and_must_not_do_so_inside_the_daemons_unit() -> None:
    apart = hypervisor.words("start", "proxmox", "100", True)
    assert (apart[0], apart[-4:]) == ("systemd-run", ["--", "qm", "start", "100"])
    assert hypervisor.words("start", "proxmox", "100", False) == ["qm", "start", "100"]
    assert hypervisor.words("start", "libvirt", "x", True)[0] == "virsh"  # which only asks libvirt


@pytest.mark.parametrize("words", [("start", "proxmox", "-rf"), ("start", "bare", "100"), ("clean-up", "libvirt", "x")])
def test_what_cannot_be_done_is_said_and_never_tried(node: Node, words: tuple[str, str, str]) -> None:
    code = "import sys; from vmguard.jobs.hypervisor import main; sys.exit(main())"
    job = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (job.returncode, job.stderr.count("\n")) == (1, 1)
    assert node.called == []
