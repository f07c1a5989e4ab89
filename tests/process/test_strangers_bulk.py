"""Mounts, names, locks and arguments without end neither keep the daemon nor fill it.

The daemon's parts in the test's own loop, and processes of an ordinary user.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_harness import Corner, open_corner
from tests.support.strangers import NOBODY, OPENS, Strangers
from vmguard.adapters.linux import may_block, mounts, proc
from vmguard.core.sources.process_arguments import identity, named_files, served, telling
from vmguard.daemon.scan.process_fds import OF_A_STRANGER, OF_A_VM, MountTables, ProcessFds

pytestmark = pytest.mark.process

#: CPU time that one process may cost the loop at once; each of these cost seconds
_LOOK_S = 0.5
#: a mount namespace of the user's own with tens of thousands of mounts, and files on one that is in no table
_MOUNTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def must(failed):
    if failed:
        raise OSError(ctypes.get_errno(), "a system call of the test")
user = os.getuid()
must(libc.unshare(0x10020000))
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {user} 1")):
    with open(f"/proc/self/{name}", "w") as stream:
        stream.write(text)
must(libc.mount(b"none", b"/", None, 0x44000, None))
must(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
for place in ("/mnt/a", "/mnt/b"):
    os.mkdir(place)
    must(libc.mount(b"none", place.encode(), b"tmpfs", 0, None))
for number in range(14):
    os.mkdir(f"/mnt/a/{number}")
    must(libc.mount(b"/mnt/a", f"/mnt/a/{number}".encode(), None, 0x5000, None))
files = [os.open(f"/mnt/b/{number}", os.O_CREAT | os.O_RDWR) for number in range(64)]
must(libc.umount2(b"/mnt/b", 2))
"""
#: files whose names have four thousand characters
_NAMES = """
import os, tempfile
os.chdir(tempfile.mkdtemp(dir="/var/tmp"))
print(os.getcwd(), flush=True)
for _ in range(15):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
files = [os.open(f"{number:0200}", os.O_CREAT | os.O_RDWR) for number in range(900)]
"""
#: a file with thousands of locks, open sixty times
_LOCKS = """
import fcntl, os, resource, struct, tempfile
fd, path = tempfile.mkstemp(dir="/var/tmp")
os.unlink(path)
for number in range(6000, 0, -1):
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 2 * number, 1, 0))
copies = [os.dup(fd) for _ in range(60)]
"""


@pytest.fixture
def corner() -> Iterator[Corner]:
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))
    top.chmod(0o755)
    yield from open_corner(top)
    shutil.rmtree(top)


def cost(fds: ProcessFds) -> float:
    before = time.thread_time()
    fds.full(MountTables(), OF_A_STRANGER)
    return time.thread_time() - before


def test_a_namespace_of_tens_of_thousands_of_mounts_costs_little(strangers: Strangers) -> None:
    """Before: the table was read anew, whole, for each file on a mount that is in no table: minutes for one process."""
    process = strangers.start(NOBODY, "qemu-system-x86_64", code=_MOUNTS + OPENS)
    table = mounts.devices(process.pid)
    assert len(table) > 10_000, "the control: it has them"
    fds = ProcessFds(process.pid)
    assert cost(fds) < _LOOK_S
    assert fds.changed() is False
    fds.close()


def test_control_a_mount_that_is_new_is_found_although_the_table_is_fresh(tmp_path: Path) -> None:
    disk = tmp_path / "web.raw"
    disk.touch()
    fd = os.open(disk, os.O_RDWR)
    tables = MountTables()
    info = proc.fdinfo("self", fd)
    assert tables.key(os.getpid(), info) == (disk.stat().st_dev, disk.stat().st_ino)
    assert tables.key(os.getpid(), info, 1)[0] in (0, disk.stat().st_dev), "beyond the limit it is not known"
    os.close(fd)


def test_names_of_four_thousand_characters_are_not_kept(strangers: Strangers) -> None:
    process = strangers.start(NOBODY, "qemu-system-x86_64", code=_NAMES + OPENS)
    fds = ProcessFds(process.pid)
    files = fds.full(MountTables(), OF_A_STRANGER)
    assert sum(len(user.path) for user in files) <= OF_A_STRANGER.names
    assert fds._links == []
    assert fds.is_cut
    files = fds.full(MountTables(), OF_A_VM)
    assert sum(len(user.path) for user in files) <= OF_A_VM.names
    fds.close()
    shutil.rmtree(strangers.place)


def test_thousands_of_locks_on_one_file_cost_little(strangers: Strangers) -> None:
    process = strangers.start(NOBODY, "qemu-system-x86_64", code=_LOCKS + OPENS)
    fds = ProcessFds(process.pid)
    began = time.thread_time()
    files = fds.full(MountTables(), OF_A_STRANGER)
    assert time.thread_time() - began < _LOOK_S
    assert 100 < max(len(user.locks) for user in files) < 1000
    assert fds.is_cut, "what was not looked at is not closed"
    fds.close()


@pytest.mark.parametrize("words", [["x" * 100_000] * 15, [""] * 200_000, ["a"] * 200_000])
def test_megabytes_of_arguments_are_not_kept(corner: Corner, strangers: Strangers, words: list[str]) -> None:
    identified = ["-uuid", "5f0c1f4e-1111-2222-3333-444455556666", "-name", "guest=mine"]
    process = strangers.start(NOBODY, "qemu-system-x86_64", *identified, *words)
    corner.until(lambda: any(one.pid == process.pid for one in corner.unclaimed_qemus.unclaimed()))
    [found] = [one for one in corner.unclaimed_qemus.unclaimed() if one.pid == process.pid]
    assert sum(sys.getsizeof(word) for word in found.arguments) < 1 << 15
    assert found.title == "mine"
    assert len(may_block.cmdline(process.pid)) > len(may_block.cmdline(process.pid, False))


def test_what_says_which_vm_it_is_comes_first_and_the_rest_as_far_as_it_fits() -> None:
    words = ["qemu", *["-object", "memory-backend" + "x" * 300] * 100, "-uuid", "u", "-drive", "file=/srv/a.raw"]
    assert telling(words, 1 << 20) == words
    some = telling(words, 4096)
    assert identity(["-uuid", "5f0c1f4e-1111-2222-3333-444455556666"]).uuid
    assert some[0] == "qemu"
    assert some[-2:] == ["-uuid", "u"]
    assert named_files(telling(words[-5:], 4096)) == {"/srv/a.raw"}
    assert telling(["q" * 5000, "-name", "n" * 5000], 4096) == []


def test_a_helper_serves_so_many_vms_and_no_more() -> None:
    words = [f"{number:08}-1111-2222-3333-444455556666" for number in range(1000)]
    assert 0 < len(served(words).uuids) < 100
