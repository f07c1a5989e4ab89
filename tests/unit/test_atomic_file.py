"""Files that are written in a folder of somebody else's: only the entry of that name changes, whatever lies there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmguard.adapters.libvirt import hook_file
from vmguard.adapters.linux import atomic_file
from vmguard.adapters.storage import owner_record
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.report.history import FILE, History, read

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a link of another user's is made by root only")


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """Give a file of root's elsewhere, which is as it was in the end."""
    path = tmp_path / "shadow"
    path.write_text("SECRET")
    path.chmod(0o600)
    yield path
    assert path.read_text() == "SECRET"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "textfile"
    path.mkdir()
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def plant_link(place: Path, secret: Path) -> None:
    place.symlink_to(secret)


def plant_hard_link(place: Path, secret: Path) -> None:
    place.hardlink_to(secret)


def plant_fifo(place: Path, secret: Path) -> None:
    os.mkfifo(place)


PLANTED = [plant_link, plant_hard_link, plant_fifo]
Plant = Callable[[Path, Path], None]


@pytest.mark.parametrize("plant", PLANTED)
def test_what_lies_at_the_place_is_replaced_and_never_opened(plant: Plant, folder: Path, secret: Path) -> None:
    place = folder / "vmguard.prom"
    plant(place, secret)
    atomic_file.write(str(place), b"new", 0o644)
    assert stat.S_ISREG(place.lstat().st_mode)
    assert (place.read_bytes(), mode(place), place.stat().st_nlink) == (b"new", 0o644, 1)
    assert os.listdir(folder) == ["vmguard.prom"]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_file_that_must_be_new_is_made_nowhere_else(plant: Plant, folder: Path, secret: Path) -> None:
    plant(folder / "report.tar.gz", secret)
    with pytest.raises(FileExistsError):
        atomic_file.create(str(folder / "report.tar.gz"), b"new")


@pytest.mark.parametrize("plant", PLANTED)
def test_nothing_is_appended_to_what_is_not_our_own(plant: Plant, folder: Path, secret: Path) -> None:
    plant(folder / FILE, secret)
    with pytest.raises(OSError):
        atomic_file.append(str(folder / FILE), b"new")
    History(str(folder)).add(Report(Level.INFO, "c", "text"), {})  # it is dropped; nothing waits, nothing is raised


def test_control_a_history_of_our_own_grows(folder: Path) -> None:
    history = History(str(folder))
    for number in range(2):
        history.add(Report(Level.INFO, f"c{number}", "text"), {})
    assert [entry["code"] for entry in read(str(folder))] == ["c0", "c1"]
    assert mode(folder / FILE) == 0o600


def test_the_mode_is_what_was_asked_for_whatever_the_umask_says(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic_file.write(str(folder / "hook"), b"x", 0o755)
    finally:
        os.umask(before)
    assert mode(folder / "hook") == 0o755


def test_a_write_that_fails_leaves_nothing_behind(folder: Path) -> None:
    (folder / "there").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_file.write(str(folder / "there"), b"x")
    assert os.listdir(folder) == ["there"]


@as_root
def test_a_strangers_link_on_the_way_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "below").symlink_to(tmp_path)
    os.lchown(folder / "below", NOBODY, NOBODY)
    with pytest.raises(OSError, match="symbolic link of user 65534") as caught:
        atomic_file.write(str(folder / "below" / "cron"), b"x")
    assert "symbolic link" in str(caught.value.strerror)
    assert not (tmp_path / "cron").exists()


@pytest.mark.parametrize("target", ["real/inside", "../textfile/real/inside", "{folder}/real/./inside"])
def test_control_a_link_of_our_own_is_followed(target: str, folder: Path) -> None:
    (folder / "real" / "inside").mkdir(parents=True)
    (folder / "link").symlink_to(target.format(folder=folder))
    atomic_file.write(str(folder / "link" / "file"), b"x")
    assert (folder / "real" / "inside" / "file").read_bytes() == b"x"


def test_links_that_lead_in_a_circle_end(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        atomic_file.write(str(folder / "a" / "file"), b"x")


def test_a_name_without_a_folder_lies_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    atomic_file.create("file", b"x")
    assert (folder / "file").read_bytes() == b"x"


def test_a_link_takes_the_place_of_a_file(folder: Path, secret: Path) -> None:
    (folder / "hook").symlink_to(secret)
    atomic_file.link(str(folder / "hook"), "/usr/share/elsewhere")
    assert os.readlink(folder / "hook") == "/usr/share/elsewhere"
    assert os.listdir(folder) == ["hook"]


def test_a_hook_is_never_seen_unfinished_in_the_folder_that_libvirt_runs(folder: Path) -> None:
    inside = folder / "qemu.d"
    inside.mkdir()
    inside.chmod(0o555)
    before = inside.stat().st_mtime_ns
    hook_file.write(str(inside / "50-vmguard"), b"#!/bin/sh\n")
    assert os.listdir(inside) == ["50-vmguard"]
    assert os.listdir(folder) == ["qemu.d"]
    assert mode(inside / "50-vmguard") == 0o755
    assert inside.stat().st_mtime_ns >= before


@as_root
@pytest.mark.parametrize("change", ["owner", "mode"])
def test_a_folder_of_state_must_be_ours_alone(change: str, folder: Path) -> None:
    atomic_file.own_folder(str(folder))
    atomic_file.own_folder(str(folder / "new"))
    assert mode(folder / "new") == 0o700
    if change == "owner":
        os.chown(folder, NOBODY, NOBODY)
    else:
        folder.chmod(0o770)
    with pytest.raises(PermissionError):
        atomic_file.own_folder(str(folder))


def test_the_list_of_a_vms_disks_is_written_beside_them_alone(tmp_path: Path) -> None:
    """A link in place of the records' folder would let whoever writes on the share choose where root makes links."""
    elsewhere, share = tmp_path / "etc", tmp_path / "share"
    elsewhere.mkdir()
    share.mkdir()
    (share / ".vmguard").symlink_to(elsewhere)
    with pytest.raises(OSError):
        owner_record.list_disks(str(share / "disk"), ".vmguard", "libvirt-1", [1])
    assert os.listdir(elsewhere) == []
    (elsewhere / "libvirt-1.disks").symlink_to("7")
    with pytest.raises(OSError):
        owner_record.listed_disks(str(share / "disk"), ".vmguard", "libvirt-1")


def test_control_the_list_is_replaced_and_read_again(tmp_path: Path) -> None:
    (tmp_path / ".vmguard").mkdir()
    for inodes in ([1, 2], [3]):
        owner_record.list_disks(str(tmp_path / "disk"), ".vmguard", "libvirt-1", inodes)
        assert owner_record.listed_disks(str(tmp_path / "disk"), ".vmguard", "libvirt-1") == inodes
    assert os.listdir(tmp_path / ".vmguard") == ["libvirt-1.disks"]
