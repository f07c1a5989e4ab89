"""Only regular files are ever opened: what else lies in a file's place is judged without an open."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.open_watch import OpenWatch
from vmguard.adapters.linux.regular_file import open_regular
from vmguard.adapters.storage import fencing_token, owner_record
from vmguard.adapters.storage.files import Opener
from vmguard.adapters.storage.path_walk import Found, find, find_near
from vmguard.adapters.storage.replaced import why_replaced
from vmguard.core.locks.owner_record import Owner, file_name, slot
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.doctor import look_share


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def link_to_fifo(path: Path) -> Path:
    path.symlink_to(fifo(path.parent / "elsewhere"))
    return path.parent / "elsewhere"


def unix_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


NODES = {"a FIFO": fifo, "a symbolic link": link_to_fifo, "a socket": unix_socket}
Make = Callable[[Path], Path]


def test_negative_control_an_open_is_seen_and_a_hold_is_none(tmp_path: Path) -> None:
    path = fifo(tmp_path / "a")
    with OpenWatch(path) as watch:
        os.close(os.open(path, os.O_PATH))
        assert watch.opened() == set()
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        assert watch.opened() == {path}


@pytest.mark.parametrize("kind", NODES)
def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path, kind: str) -> None:
    watched = NODES[kind](tmp_path / "a")
    with OpenWatch(watched) as watch:
        with pytest.raises(OSError, match=f"it is {kind}, not a file"):
            open_regular(str(tmp_path / "a"), os.O_RDWR)
        assert watch.opened() == set()


def test_a_file_is_opened_as_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    os.link(tmp_path / "a", tmp_path / "b")
    fd = open_regular(str(tmp_path / "a"), os.O_RDONLY)
    assert os.read(fd, 9) == b"text"
    os.close(fd)
    with pytest.raises(OSError, match="it is hard-linked") as caught:
        open_regular("a", os.O_RDONLY, os.open(tmp_path, os.O_PATH), links=1)
    assert caught.value.errno == errno.EMLINK


def test_a_disk_that_its_server_has_replaced_meanwhile_is_looked_for_anew(tmp_path: Path) -> None:
    class Replaced(Opener):
        __slots__ = ("times",)

        def _open_direct(self, found: Found, flags: int) -> int:
            self.times = getattr(self, "times", 0) + 1
            if self.times == 1:
                os.rename(tmp_path / "new", tmp_path / "a")
                raise OSError(errno.ESTALE, "Stale file handle")
            return super()._open_direct(found, flags)

    (tmp_path / "a").touch()
    (tmp_path / "new").touch()
    inode = (tmp_path / "new").stat().st_ino
    file = Replaced().open(str(tmp_path / "a"), EXCLUSIVE, "disk vda")
    file.close()
    assert file.key[1] == inode


# -- the walk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "real", "links"),
    [
        ("a/b/f", "a/b/f", []),
        ("l/b/f", "a/b/f", ["l"]),
        ("a/g", "a/b/f", ["a/g", "l"]),
        ("absolute", "a/b/f", ["absolute", "a/g", "l"]),
        ("a//b/../b/./f", "a/b/f", []),
        ("a/b", "a/b", []),
    ],
)
def test_each_link_on_the_way_is_known(tmp_path: Path, path: str, real: str, links: list[str]) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/f").touch()
    for link, text in (("l", "a"), ("a/g", "../l/b/f"), ("absolute", f"{tmp_path}/a/g")):
        (tmp_path / link).symlink_to(text)
    found = find(f"{tmp_path}/{path}")
    found.close()
    assert found.real == f"{tmp_path}/{real}"
    assert [place for place, _ in found.links] == [f"{tmp_path}/{link}" for link in links]


def test_a_magic_link_leads_where_its_name_leads(tmp_path: Path) -> None:
    """A descriptor of a file without a name is opened through /proc by whoever follows its link blindly."""
    (tmp_path / "a").touch()
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    os.unlink(tmp_path / "a")
    assert os.stat(f"/proc/self/fd/{fd}").st_nlink == 0, "control"
    with pytest.raises(FileNotFoundError):
        find(f"/proc/self/fd/{fd}")
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "number"), [("loop", errno.ELOOP), ("file/below", errno.ENOTDIR), ("no", errno.ENOENT)]
)
def test_a_walk_that_ends_nowhere_is_an_error_of_the_kernels(tmp_path: Path, text: str, number: int) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(text)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError) as caught:
        find(str(tmp_path / "loop"))
    assert caught.value.errno == number
    assert os.listdir("/proc/self/fd") == before


# -- a look at what is known ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["disk.raw", "folder"])
def test_a_look_at_a_disk_follows_no_link_to_another_storage(tmp_path: Path, place: str) -> None:
    """The other one may never answer, and the worker of the disk's own would hang with it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    disk = folder / "disk.raw"
    disk.touch()
    inode = disk.stat().st_ino
    assert why_replaced(str(disk), inode, ()) == "", "control"
    os.rename(disk, folder / "renamed.raw")
    disk.symlink_to("renamed.raw")
    assert why_replaced(str(disk), inode, ()) == "", "control: a link to what lies beside it"
    if place == "folder":
        os.rename(folder, elsewhere / "folder")
        folder.symlink_to(elsewhere / "folder")
    else:
        disk.unlink()
        disk.symlink_to(elsewhere / "disk.raw")
    with pytest.raises(OSError, match="symbolic links"):
        find_near(str(disk))
    assert "is led elsewhere by a symbolic link" in why_replaced(str(disk), inode, ())


# -- records --------------------------------------------------------------------------------------------------------

FOLDER = ".vmguard"
CLAIM = {"host": "hyp-a", "vm": "web", "uuid": "u", "boot": "b", "claimed": "2026-11-21T09:00:00Z"}


def disk_with(tmp_path: Path, make: Make) -> tuple[str, int, Path]:
    """A disk with something else in its record's place."""
    disk = tmp_path / "web"
    disk.touch()
    (tmp_path / FOLDER).mkdir()
    inode = disk.stat().st_ino
    return str(disk), inode, make(tmp_path / FOLDER / file_name(inode))


def another_file(path: Path) -> Path:
    """A file of somebody else's that has a record's name, too."""
    other = path.parent.parent / "other"
    other.write_bytes(slot(Owner(1, **CLAIM)))
    os.link(other, path)
    return other


@pytest.mark.parametrize("kind", [*NODES, "another file"])
def test_what_is_no_record_is_neither_written_nor_read(tmp_path: Path, kind: str) -> None:
    disk, inode, watched = disk_with(tmp_path, {**NODES, "another file": another_file}[kind])
    record = tmp_path / FOLDER / file_name(inode)
    holder = None if kind == "a socket" else os.open(watched, os.O_RDWR | os.O_NONBLOCK)  # or a blind open would wait
    with OpenWatch(watched) as watch:
        with pytest.raises(OSError, match="it is "):
            owner_record.write_claim(disk, FOLDER, inode, CLAIM)
        with pytest.raises(OSError, match="it is "):
            owner_record.read_claims(disk, FOLDER, inode, 1)
        assert owner_record.last_claim(str(record)) is None
        assert fencing_token.read_token(str(record)).epoch is None
        assert look_share.look(str(tmp_path), FOLDER).records == ()
        assert watch.opened() == set()
    if holder is not None:
        os.close(holder)


def test_negative_control_a_record_is_written_and_read(tmp_path: Path) -> None:
    disk, inode, _ = disk_with(tmp_path, lambda path: path)
    record = tmp_path / FOLDER / file_name(inode)
    assert [owner_record.write_claim(disk, FOLDER, inode, CLAIM) for _ in range(2)] == [1, 2]
    assert owner_record.last_claim(str(record)) is not None
    assert fencing_token.read_token(str(record)).epoch == 2
    assert len(look_share.look(str(tmp_path), FOLDER).records) == 2


def test_the_list_of_disks_is_left_in_no_other_folder(tmp_path: Path) -> None:
    disk, elsewhere = tmp_path / "web.raw", tmp_path / "elsewhere"
    disk.touch()
    elsewhere.mkdir()
    (tmp_path / FOLDER).symlink_to(elsewhere)
    with pytest.raises(OSError):
        owner_record.list_disks(str(disk), FOLDER, "libvirt-u", [1])
    (elsewhere / "libvirt-u.disks").symlink_to("5,6")
    with pytest.raises(OSError):
        owner_record.listed_disks(str(disk), FOLDER, "libvirt-u")
    assert [path.name for path in elsewhere.iterdir()] == ["libvirt-u.disks"]
    (tmp_path / FOLDER).unlink()
    (tmp_path / FOLDER).mkdir()
    for inodes in ([1], [2, 3]):  # control
        owner_record.list_disks(str(disk), FOLDER, "libvirt-u", inodes)
        assert owner_record.listed_disks(str(disk), FOLDER, "libvirt-u") == inodes


def test_the_doctor_opens_no_fifo_that_is_named_like_an_image(tmp_path: Path) -> None:
    path = fifo(tmp_path / "a.raw")
    holder = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with OpenWatch(path) as watch:
        assert look_share.look(str(tmp_path), FOLDER).unlocked_writes == ()
        assert watch.opened() == set()
    os.close(holder)
