"""The cheap look at a process's descriptors: nothing that may be a new image hides from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import Writer
from vmguard.adapters.linux.proc import FdFolder
from vmguard.daemon.scan.process_fds import MountTables, ProcessFds

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
