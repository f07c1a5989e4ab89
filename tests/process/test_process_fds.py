"""The cheap look at a process's descriptors: nothing that may be a new image hides from it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_harness import Corner, Writer, open_corner
from tests.support.processes import track
from vmguard.adapters.linux import proc
from vmguard.adapters.linux.proc import FdFolder, FdInfo, OpenFile
from vmguard.daemon.release.file_users import FileUsers
from vmguard.daemon.scan.process_fds import OF_A_STRANGER, OF_A_VM, MountTables, ProcessFds

pytestmark = pytest.mark.process


class UncountedFolder(FdFolder):
    """A process's descriptors on a kernel before Linux 6.2, which does not tell their number."""

    __slots__ = ()

    def count(self) -> int:
        return 0


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def writer(files: tuple[Path, Path]) -> Iterator[Writer]:
    """It has the first file open."""
    writer = Writer()
    writer.open(files[0])
    yield writer
    writer.end()


@pytest.fixture(params=[FdFolder, UncountedFolder], ids=["counted", "before Linux 6.2"])
def fds(writer: Writer, request: pytest.FixtureRequest) -> Iterator[ProcessFds]:
    """It has just been looked at fully, and nothing has changed."""
    fds = ProcessFds(writer.pid, request.param)
    look(fds)
    assert not fds.changed()
    yield fds
    fds.close()


def look(fds: ProcessFds) -> dict[str, int]:
    """The files that a full look finds, and their descriptors' numbers."""
    found = fds.full(MountTables())
    return {os.path.basename(user.path): user.fd for user in found if "pytest" in os.path.dirname(user.path)}


def test_what_is_opened_and_closed_is_seen(fds: ProcessFds, writer: Writer, files: tuple[Path, Path]) -> None:
    writer.open(files[1])
    assert fds.changed()
    assert look(fds).keys() == {"a", "b"}
    assert not fds.changed()
    writer.close(files[1])
    assert fds.changed()


def test_an_open_that_hides_behind_a_close_is_seen(fds: ProcessFds, writer: Writer, files: tuple[Path, Path]) -> None:
    """As many descriptors as before, and the new one has the number of the one that was closed."""
    before, count = look(fds), fds._folder.count()
    writer.close(files[0])
    writer.open(files[1])
    assert fds._folder.count() == count, "the count alone would show it"
    assert fds.changed()
    assert look(fds) == {"b": before["a"]}


def test_another_link_of_the_same_descriptor_is_seen(fds: ProcessFds, files: tuple[Path, Path]) -> None:
    """Proxmox renames the file of a snapshot."""
    files[0].rename(files[0].with_name("renamed"))
    assert fds.changed()
    assert look(fds).keys() == {"renamed"}


def test_a_process_that_is_gone_has_changed(fds: ProcessFds, writer: Writer) -> None:
    writer.end()
    assert fds.changed()


# -- a process with as many descriptors as it likes -----------------------------------------------------------------

#: opens one file many times, and another one last; a line on stdin opens one more
_MANY = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (19990, 19990))
first = os.open(sys.argv[1], os.O_RDONLY)
try:
    while True:
        os.dup(first)
except OSError:
    for fd in range(19900, 19990):
        os.close(fd)
os.open(sys.argv[2], os.O_RDWR)
print("ready", flush=True)
for line in sys.stdin:
    os.dup(first)
    print("ready", flush=True)
"""


@pytest.fixture
def many(files: tuple[Path, Path]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-IS", "-c", _MANY, *map(str, files)]
    process = track(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_twenty_thousand_descriptors_cost_little_and_are_said_to_be_cut(
    many: subprocess.Popen[str], files: tuple[Path, Path]
) -> None:
    assert many.stdin is not None
    assert many.stdout is not None
    fds, tables = ProcessFds(many.pid), MountTables()
    costs = []
    for limits in (OF_A_VM, OF_A_STRANGER, OF_A_STRANGER):
        before = time.thread_time()
        assert fds.changed()
        found = fds.full(tables, limits)
        costs.append(time.thread_time() - before)
        assert len(found) == limits.files
        assert fds.is_cut
        assert not fds.shows(), "what was not looked at is not closed"
        many.stdin.write("more\n")
        many.stdin.flush()
        many.stdout.readline()
    assert min(costs) < 0.1  # 0.25 s and more when each of them is looked at
    assert len(fds._links) == 0, "so many are not kept"
    fds.full(tables)
    assert not fds.changed()
    fds.close()


def test_each_name_is_looked_at_before_more_of_the_same(writer: Writer, files: tuple[Path, Path]) -> None:
    writer.open(files[1])
    fds = ProcessFds(writer.pid)
    names = {user.path for user in fds.full(MountTables())}
    assert {user.path for user in fds.full(MountTables(), OF_A_VM._replace(files=len(names)))} == names
    assert len(fds.full(MountTables(), OF_A_VM._replace(files=1))) == 1
    assert fds.is_cut
    fds.close()


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    yield from open_corner(tmp_path)


def test_a_daemon_without_a_descriptor_to_look_with_takes_nothing_for_closed(corner: Corner) -> None:
    writer = corner.writer("-name", "web")
    writer.open(corner.disk("web.raw"))
    corner.until(corner.pinned)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        for _ in range(20):
            corner.pinner.reconcile(corner.vm)
            corner.loop.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert corner.pinned()
    for fds in corner.pinner._scan_states[corner.vm.id].fds_by_pid.values():
        fds.close()
    corner.pinner._scan_states[corner.vm.id].fds_by_pid.clear()  # as if the process had just been found
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        for _ in range(20):
            corner.pinner.reconcile(corner.vm)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert corner.pinned()
    writer.close(corner.disk("web.raw"))
    corner.until(lambda: not corner.vm.files)  # the control: what was really closed is let go


def test_who_has_a_file_open_is_not_answered_without_a_descriptor_to_look_with(
    writer: Writer, files: tuple[Path, Path]
) -> None:
    status = files[0].stat()
    keys = {(status.st_dev, status.st_ino)}
    assert {user.pid for user in proc.users_of(keys)} == {writer.pid}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            proc.users_of(keys)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_who_has_a_file_open_costs_little_where_one_file_is_open_ten_thousand_times(
    many: subprocess.Popen[str], files: tuple[Path, Path]
) -> None:
    status = files[1].stat()
    before = time.thread_time()
    found = list(proc.open_files(many.pid, {status.st_ino}))
    assert time.thread_time() - before < 0.2
    assert [user.path for user in found] == [str(files[1])], "the one behind them is seen all the same"


def test_one_look_answers_all_that_were_asked_before_it_began() -> None:
    class Threads:
        """Jobs are done when the test says so."""

        def __init__(self) -> None:
            self.jobs: list[tuple[Any, Any]] = []

        def run(self, device: int, what: str, work: Any, done: Any) -> None:
            self.jobs.append((work, done))

        def do(self) -> None:
            work, done = self.jobs.pop(0)
            done(work())

    looks: list[set[tuple[int, int]]] = []

    def look(keys: Collection[tuple[int, int]], exclude: Collection[int]) -> list[OpenFile]:
        looks.append(set(keys))
        return [OpenFile(7, 1, f"/{key[1]}", key, FdInfo(os.O_RDWR, 0, key[1], [])) for key in keys]

    threads: Any = Threads()
    users, told = FileUsers(threads, set, look), []

    def answer(found: Any) -> None:
        told.append([user.key for user in found])

    for inode in (1, 2, 3):
        users.ask({(0, inode)}, answer)
    threads.do()
    assert (looks, told) == ([{(0, 1)}], [[(0, 1)]])
    threads.do()
    assert looks[1] == {(0, 2), (0, 3)}
    assert told[1:] == [[(0, 2)], [(0, 3)]]
    assert threads.jobs == []
