"""Files that root's programs leave for root: what others put in their place is not read, and nothing hangs on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vmguard.adapters.libvirt import host
from vmguard.adapters.linux import pid_file, roots_file
from vmguard.adapters.proxmox import snippets
from vmguard.errors import VmguardError

UUID = "5f0c1f4e-1111-2222-3333-444455556666"
NOBODY = 65534
_IS_ROOT = os.geteuid() == 0


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def _link(path: Path) -> None:
    target = path.parent / "true.txt"
    target.write_text(f"<uuid>{UUID}</uuid> 1")
    path.symlink_to(target)


def _written_by_others(path: Path) -> None:
    path.write_text(f"<uuid>{UUID}</uuid>")
    path.chmod(0o666)


def _magic(path: Path) -> None:
    path.symlink_to("/proc/self/fd/0")


OTHERS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": os.mkdir,
    "a socket": _socket,
    "a link": _link,
    "a magic link": _magic,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a file that others may write": _written_by_others,
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_file_of_roots_alone_is_not_read(tmp_path: Path, what: str) -> None:
    """Before, a FIFO in the place of libvirt's status file hung the daemon's loop for ever."""
    for name in ("web.xml", "web.pid"):
        OTHERS[what](tmp_path / name)
    assert host.name_of(str(tmp_path), UUID) == ""
    assert not host.disowns(str(tmp_path), "web", "another")
    assert pid_file.read(str(tmp_path / "web.pid")) is None
    with pytest.raises(OSError, match=r"."):
        roots_file.read(str(tmp_path / "web.xml"), 100)


@pytest.mark.skipif(not _IS_ROOT, reason="gives files away")
def test_nor_is_a_file_of_another_user_or_in_his_folder(tmp_path: Path) -> None:
    status = tmp_path / "web.xml"
    status.write_text(f"<uuid>{UUID}</uuid>")
    assert host.name_of(str(tmp_path), UUID) == "web", "the control"
    assert host.disowns(str(tmp_path), "web", "another"), "the control"
    os.chown(status, NOBODY, NOBODY)
    assert host.name_of(str(tmp_path), UUID) == ""
    assert "not root's alone" in roots_file.why_not(str(status))
    os.chown(status, 0, 0)
    os.chown(tmp_path, NOBODY, NOBODY)
    assert not host.disowns(str(tmp_path), "web", "another")
    assert "folder" in roots_file.why_not(str(status))


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_hookscript_is_put_where_nobody_else_can_exchange_it(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "snippets"
    folder.mkdir()
    snippets.install(str(folder / "vmguard"), "# vmguard: the hookscript\n", "/nowhere")
    assert snippets.is_current(str(folder / "vmguard"), "# vmguard: the hookscript\n")
    folder.chmod(mode)
    with pytest.raises(VmguardError, match="run as root"):
        snippets.install(str(folder / "vmguard"), "# vmguard: the hookscript\n", "/nowhere")


def test_somebody_elses_copy_of_it_is_not_up_to_date(tmp_path: Path) -> None:
    """It reads the same today; tomorrow Proxmox runs, as root, whatever its owner has made of it."""
    script, copy = tmp_path / "vmguard", tmp_path / "copy"
    copy.write_text("# vmguard: the hookscript\n")
    copy.chmod(0o777)
    script.symlink_to(copy)
    assert not snippets.is_current(str(script), "# vmguard: the hookscript\n")
    script.unlink()
    copy.rename(script)
    assert not snippets.is_current(str(script), "# vmguard: the hookscript\n")
    script.chmod(0o755)
    assert snippets.is_current(str(script), "# vmguard: the hookscript\n")
    script.unlink()
    os.mkfifo(script)
    assert snippets.what_is_there(str(script)) == snippets.FOREIGN
