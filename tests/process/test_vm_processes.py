"""Which process is a VM's QEMU, and which one runs its start: by pid files and /proc, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.other_users import NOBODY
from tests.support.processes import track
from vmguard.adapters import hypervisors
from vmguard.core import BARE, HYPERVISORS, LIBVIRT, PROXMOX

pytestmark = pytest.mark.process


class Programs:
    """Processes of the test's own whose program file, and so whose short name, is called as the test likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, of: str = "sleep", *words: str, user: int = 0) -> subprocess.Popen[bytes]:
        path = self._folder / name
        self._folder.chmod(0o755)
        if not path.exists():
            shutil.copy(shutil.which(of) or "", path)
        process = track(subprocess.Popen([path, *(words or ("60",))], stdout=subprocess.PIPE, user=user))
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def programs() -> Iterator[Programs]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # other users cannot get into pytest's own
        programs = Programs(Path(folder))
        yield programs
        programs.end()


@pytest.mark.parametrize(
    ("worker", "user", "is_found"),
    [("task UPID:node1", 0, True), ("pvedaemon worke", 0, False), ("task UPID:node1", NOBODY, False)],
)
def test_a_start_is_run_by_the_nearest_ancestor_that_is_a_tasks_worker_of_roots(
    programs: Programs, worker: str, user: int, is_found: bool
) -> None:
    """comm is enough for a name: Perl sets it with the title (perlvar, $0), and unlike the arguments it never hangs.

    But any user can call a process of his like that.
    """
    task = programs.start(worker, "sh", "-c", "sh -c 'sleep 60 & echo $!; wait'; :", user=user)
    assert task.stdout is not None
    hook = int(task.stdout.readline())
    try:
        starters = {name: hypervisors.by_name(name).starter_of(hook) for name in HYPERVISORS}
        assert starters == {LIBVIRT: 0, PROXMOX: task.pid if is_found else 0, BARE: 0}
    finally:
        os.kill(hook, signal.SIGKILL)
