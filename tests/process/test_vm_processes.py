"""Which process is a VM's QEMU, and which one runs its start: by pid files and /proc, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import track
from tests.unit.test_hypervisors import UUID, WORDS
from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.core import BARE, HYPERVISORS, LIBVIRT, PROXMOX

pytestmark = pytest.mark.process

#: no process can have it (PID_MAX_LIMIT of include/linux/threads.h)
NO_PID = 1 << 22


class Programs:
    """Processes of the test's own whose program file, and so whose short name, is called as the test likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, of: str = "sleep", *words: str) -> subprocess.Popen[bytes]:
        path = self._folder / name
        if not path.exists():
            shutil.copy(shutil.which(of) or "", path)
        process = track(subprocess.Popen([path, *(words or ("60",))], stdout=subprocess.PIPE))
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.end()


def test_a_candidate_is_what_the_pid_file_names_if_it_may_be_a_qemu(tmp_path: Path, programs: Programs) -> None:
    qemu, libvirtd, python = (programs.start(name).pid for name in ("qemu-system-x86_64", "libvirtd", "python3"))
    run_dirs = RunDirs(str(tmp_path), str(tmp_path))
    wanted = {f"{qemu}\n": qemu, f"{libvirtd}": 0, f"{python}": python, f"{NO_PID}": 0, "1": 0, "": 0, "garbage": 0}
    for text, pid in wanted.items():
        (tmp_path / "web.pid").write_text(text)
        (tmp_path / "100.pid").write_text(text)
        found = [hypervisors.candidate(run_dirs, name, "web", id) for name, id in ((LIBVIRT, UUID), (PROXMOX, "100"))]
        assert found == [pid, pid], text
        assert hypervisors.candidate(run_dirs, BARE, "web", UUID) == 0
    (tmp_path / "web.pid").write_text(f"{qemu}")
    assert hypervisors.candidate(run_dirs, LIBVIRT, "../web", UUID) == 0
    assert hypervisors.candidate(run_dirs, PROXMOX, "", "../100") == 0


def test_the_arguments_have_the_last_word_about_a_candidate(tmp_path: Path, programs: Programs) -> None:
    qemu = programs.start("qemu-system-x86_64").pid
    (tmp_path / "web.pid").write_text(f"{qemu}")
    run_dirs = RunDirs(str(tmp_path), "/nowhere")
    assert hypervisors.qemu_pid(run_dirs, LIBVIRT, "web", UUID, lambda pid: WORDS[LIBVIRT]) == qemu
    assert hypervisors.qemu_pid(run_dirs, LIBVIRT, "web", UUID, lambda pid: WORDS[PROXMOX]) is None
    assert hypervisors.qemu_pid(run_dirs, LIBVIRT, "web", UUID, lambda pid: []) is None


@pytest.mark.parametrize(("worker", "is_found"), [("task UPID:node1", True), ("pvedaemon worke", False)])
def test_a_start_is_run_by_the_nearest_ancestor_that_is_a_tasks_worker(
    programs: Programs, worker: str, is_found: bool
) -> None:
    """comm is enough: Perl sets it with the title (perlvar, $0), and unlike the arguments it never hangs."""
    task = programs.start(worker, "sh", "-c", "sh -c 'sleep 60 & echo $!; wait'; :")
    assert task.stdout is not None
    hook = int(task.stdout.readline())
    try:
        starters = {name: hypervisors.by_name(name).starter_of(hook) for name in HYPERVISORS}
        assert starters == {LIBVIRT: 0, PROXMOX: task.pid if is_found else 0, BARE: 0}
    finally:
        os.kill(hook, signal.SIGKILL)
