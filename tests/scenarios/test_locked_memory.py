"""A process whose memory is locked hangs nothing of ours: any user can make one, and an outage makes them by itself.

While a file system does not answer, whoever maps a file of it has the memory of its process locked, and each read of
that process's arguments hangs: ``ps``, ``pgrep``, ``systemctl status``.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import GuestTimeout, Job, Lab
from tests.lab.guest import PYTHON, REPOSITORY
from tests.scenarios.kept import until
from tests.support.guarded_guests import VMGUARD, Guarded, Guest

pytestmark = pytest.mark.lab

#: a second share, which is cut off while the first one is well
OTHER = "/srv/other"
INSIDE = f"{REPOSITORY}/tests/scenarios/inside"
#: what a start, or the start of a daemon, may take longer than without such a process on a machine as busy as that
SOON_S = 1.0


class Place:
    def __init__(self, lab: Lab, lock_memory: Path) -> None:
        self.lab = lab
        self.server, self.other = lab.nfs_server(), lab.nfs_server("storage-2")
        self.node = Guarded(lab.hypervisor("hyp-a", mem="512M"), "hook: {wait: 1s}\n")
        self.node.mount(self.server)
        self.node.mount(self.other, OTHER, "vers=4.2,hard,actimeo=1")
        self.node.host.put("/usr/local/bin/lock_memory", lock_memory.read_bytes(), 0o755)
        self.node.host.run(
            f"modprobe fuse; head -c 1M /dev/zero > {OTHER}/file; chmod 666 /dev/fuse {OTHER}/file; sync"
        )
        self.node.start_daemon()

    def arguments_hang(self, pid: int) -> bool:
        try:
            return not self.node.host.run(["cat", f"/proc/{pid}/cmdline"], 2).stdout
        except GuestTimeout:
            return True

    def a_start_and_a_status(self, name: str) -> float:
        """Start a VM until it is pinned, ask for the status, end it; return the seconds of start and status."""
        node, guest = self.node, Guest(name)
        node.make_disks(guest)
        began = time.monotonic()
        vm = node.start_vm(guest)
        assert name in {found["name"] for found in node.status()}
        spent = time.monotonic() - began
        vm.kill()
        node.hook(guest, "release")
        node.wait_released(guest)
        return spent

    def restart(self) -> float:
        """Start the daemon anew; return the seconds until it is ready."""
        self.node.kill_daemon()
        began = time.monotonic()
        self.node.start_daemon()
        return time.monotonic() - began


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    program = tmp_path_factory.mktemp("c") / "lock_memory"
    subprocess.run(["gcc", "-O1", "-static", "-o", program, f"{INSIDE}/lock_memory.c"], check=True)
    with Lab() as lab:
        yield Place(lab, program)


def hangs_nothing(place: Place, lock: Callable[[], int]) -> None:
    before, ready_before = place.a_start_and_a_status("before"), place.restart()
    pid = lock()
    until(lambda: place.arguments_hang(pid), lambda: "its memory is not locked")
    assert place.restart() < 2 * ready_before + SOON_S
    assert place.a_start_and_a_status("meanwhile") < 2 * before + SOON_S
    for words in ("doctor --no-proof --timeout 2", "check meanwhile --timeout 2", "metrics", "adopt --all --dry-run"):
        place.node.host.run(f"{VMGUARD} {words}", 60, check=False)
    assert place.arguments_hang(pid), "it was over before we were"


def first_line(job: Job) -> int:
    until(lambda: job.output()[0], lambda: job.output()[1], 30)
    return int(job.output()[0].split()[0])


def test_a_users_own_file_system(place: Place) -> None:
    """An unprivileged user's, in a user namespace of his own."""
    job = place.node.host.spawn(
        ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "lock_memory", "120"]
    )
    hangs_nothing(place, lambda: first_line(job))
    job.kill()


def mapped(place: Place, what: str) -> tuple[Job, int]:
    """A program that has a file of the other share open, before that is cut off and its attributes are old."""
    job = place.node.host.spawn([PYTHON, f"{INSIDE}/map_file.py", what, f"{OTHER}/file"], stdin=True)
    pid = first_line(job)
    place.lab.partition(place.other)
    time.sleep(3)
    job.send(b"now\n")
    return job, pid


def test_a_file_of_a_dead_share_that_is_mapped(place: Place) -> None:
    """Nobody is hostile: a program maps a file whose server is away. The client asks for its attributes first."""
    jobs: list[Job] = []

    def lock() -> int:
        job, pid = mapped(place, "map")
        jobs.append(job)
        return pid

    hangs_nothing(place, lock)
    place.lab.heal(place.other)
    until(lambda: "came back" in jobs[0].output()[0], lambda: "it does not come back", 60)


def test_control_a_page_of_it_that_is_touched_locks_nothing(place: Place) -> None:
    """A page fault gives the lock back while it waits (lock_page_maybe_drop_mmap)."""
    job, pid = mapped(place, "touch")
    assert "came back" not in job.output()[0]
    assert not place.arguments_hang(pid)
    place.lab.heal(place.other)
    until(lambda: "came back" in job.output()[0], lambda: "it does not come back", 60)
