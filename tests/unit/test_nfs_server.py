"""A host that is an NFS server and a hypervisor: its own claims wait for the end of the server's grace period."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from vmguard.adapters.linux.nfs_server import NfsServer
from vmguard.core.locks.plan import DISK, EXCLUSIVE, PlannedFile
from vmguard.errors import StorageTimeout
from vmguard.hook import claim_in_grace
from vmguard.hook.claim_on_share import ClaimedFile, ClaimedFiles


class Server:
    """The files by which the kernel tells of its NFS server."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "nfsd"
        self.lockd = folder / "nlm_end_grace"
        self.etab = folder / "etab"
        self.proc.mkdir()
        self.seen = NfsServer(str(self.proc), str(self.lockd), str(self.etab))

    def says(self, version_4: str, lockd: str = "Y", *exported: Path) -> None:
        (self.proc / "v4_end_grace").write_text(version_4 + "\n")
        (self.proc / "nfsv4gracetime").write_text("90\n")
        self.lockd.write_text(lockd + "\n")
        lines = [f"{str(path).replace(' ', chr(92) + '040')}\t*(rw,sync,no_root_squash)\n" for path in exported]
        self.etab.write_text("".join(lines))


class Told:
    """Stands for the pipe to the hook."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def stage(self, what: str, seconds: float | None = None) -> None:
        self.stages.append(what)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def check(self) -> None:
        pass


class Asked:
    name = "web"
    mount_wait = 0.6

    def __init__(self, speaks: bool = False) -> None:
        self.speak = print if speaks else None


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "the share"
    folder.mkdir()
    (folder / "web.raw").write_bytes(b"")
    return folder


def wait(server: Server, disk: Path, seconds: float = 0.3, speaks: bool = False) -> Told:
    fd = os.open(disk, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        planned = PlannedFile(str(disk), EXCLUSIVE, DISK, "disk vda")
        file = ClaimedFile(planned, fd, (status.st_dev, status.st_ino), [(0, 0)])
        told, asked = Told(), cast(Any, Asked(speaks))
        claim_in_grace.wait(asked, ClaimedFiles([file], [], seconds), asked, cast(Any, told), server.seen)
        return told
    finally:
        os.close(fd)


@pytest.mark.parametrize("words", [("N", "Y"), ("Y", "N"), ("N", "N")])
def test_a_claim_on_an_exported_disk_waits_and_is_refused(server: Server, share: Path, words: tuple[str, str]) -> None:
    server.says(*words, share)
    began = time.monotonic()
    with pytest.raises(StorageTimeout) as refused:
        wait(server, share / "web.raw")
    assert time.monotonic() - began >= 0.3
    assert str(share) in refused.value.message
    assert "lasts 90 s" in refused.value.hint


def test_it_goes_on_when_the_grace_period_ends(server: Server, share: Path) -> None:
    server.says("N", "Y", share)
    threading.Timer(0.2, server.says, ("Y", "Y", share)).start()
    told = wait(server, share / "web.raw", 5, speaks=True)
    assert told.stages == ["waiting for the end of this host's NFS grace period"]
    assert "grace period; waiting" in told.notes[0]


def test_an_export_by_another_path_is_the_same_folder(server: Server, share: Path, tmp_path: Path) -> None:
    (tmp_path / "export").symlink_to(share)
    server.says("N", "Y", tmp_path / "export")
    with pytest.raises(StorageTimeout):
        wait(server, share / "web.raw")


def test_nobody_else_waits(server: Server, share: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    disk = share / "web.raw"
    assert wait(server, disk).stages == []  # no server at all
    server.says("N", "Y", other)
    assert wait(server, disk).stages == []  # another folder is exported
    server.says("Y", "Y", share)
    assert wait(server, disk).stages == []  # the grace period is over
    assert server.seen.exports() == [str(share)]


def test_a_server_without_lockd(server: Server, share: Path) -> None:
    server.says("Y", "", share)
    assert not server.seen.in_grace()
