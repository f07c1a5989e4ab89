"""What somebody may put on a share who may write there and nothing else: seen through the real hook and commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, locks_on, make_disk
from tests.support.open_watch import OpenWatch
from tests.support.processes import track

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root"),
]

NOBODY = 65534
MALLORY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
FOLDER = ".vmguard"


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with Guard(tmp_path_factory.mktemp("host")) as guard:
        yield guard


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder in which everybody may write, as an image store may be; beside it is what is none of theirs."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    folder = tmp_path / "share"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def mallory(*command: str | Path) -> None:
    subprocess.run([*MALLORY, *command], check=True, cwd="/", timeout=10)


def qcow2_vm(disk: Path, store: str = "", vm: Vm | None = None) -> bytes:
    xml = (vm or Vm("web", [disk])).xml().replace(b"type='raw'", b"type='qcow2'")
    return xml.replace(b"/><target", f">{store}</source><target".encode()) if store else xml


# -- in the place of a disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a FIFO", "a link to a FIFO", "a link to a device", "a device"])
def test_what_is_no_file_is_refused_by_every_command_and_opened_by_none(
    guard: Guard, share: Path, tmp_path: Path, what: str
) -> None:
    disk, target = share / "web.raw", tmp_path / "target"
    if what.startswith("a link"):
        mallory("ln", "-s", target, disk)
    else:
        target = disk
    if what.endswith("device"):
        os.mknod(target, 0o600 | 0o020000, os.makedev(1, 3))
    else:
        os.mkfifo(target, 0o666)
    xml, holder = tmp_path / "web.xml", os.open(target, os.O_RDWR | os.O_NONBLOCK)
    xml.write_bytes(Vm("web", [disk]).xml())
    with OpenWatch(target) as watch:
        refused = guard.hook("prepare", xml.read_bytes())
        assert refused.status == 1
        assert f"is a {'character device' if what.endswith('device') else 'FIFO'}, not a file" in refused.err
        for command in (("plan", "--domain-xml", str(xml)), ("who", str(disk))):
            assert guard.vmguard(*command).status > 0
        assert watch.opened() == set()
        drained = subprocess.run(
            [sys.executable, "-m", "vmguard.jobs.drain", f"{target.stat().st_ino}:{disk}"],
            capture_output=True,
            timeout=10,
            check=True,
        )
        assert b"not a file" in drained.stderr
        assert watch.opened() == set()
    os.close(holder)


# -- in an image's header -------------------------------------------------------------------------------------------


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / ".pwd.lock").touch()
    return folder


def upload(share: Path, target: Path, what: str) -> Path:
    """An image that names a file of the host, as its data file or as what it is based on."""
    path = share / "t.qcow2"
    mallory("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    option = f"data_file={target}" if what == "data file" else f"backing_file={target},backing_fmt=raw"
    made = share.parent / "made.qcow2"  # made where qemu-img may open the target, then put in place
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, str(made), "1M"], check=True)
    path.write_bytes(made.read_bytes())
    return path


def test_a_data_file_of_the_host_is_refused_neither_locked_nor_given_a_record(
    guard: Guard, share: Path, etc: Path
) -> None:
    target = etc / ".pwd.lock"
    image = upload(share, target, "data file")
    refused = guard.hook("prepare", qcow2_vm(image))
    assert refused.status == 1
    for words in (f"'{image}' names '{target}' in its header", "storage.trusted_folders", "on this host's own file"):
        assert words in refused.err
    assert locks_on(target) == []
    assert os.listdir(etc) == [".pwd.lock"]
    assert guard.nothing_left(image, target)


def test_a_data_file_that_the_admin_names_or_trusts_is_locked(tmp_path: Path, share: Path, etc: Path) -> None:
    """Control: in the VM's own configuration, or by a setting."""
    (tmp_path / "host").mkdir()
    target = etc / ".pwd.lock"
    image = upload(share, target, "data file")
    store = f"<dataStore type='file'><format type='raw'/><source file='{target}'/></dataStore>"
    with Guard(tmp_path / "host") as guard:
        assert guard.hook("prepare", qcow2_vm(image, store)).status == 0
        assert locks_on(target)
        guard.hook("release", qcow2_vm(image, store))
    (tmp_path / "trusting").mkdir()
    with Guard(tmp_path / "trusting", storage={"trusted_folders": f"/nowhere:{etc}"}) as guard:
        assert guard.hook("prepare", qcow2_vm(image)).status == 0
        assert locks_on(target)


def test_a_backing_image_of_the_host_is_read_and_not_locked(guard: Guard, share: Path, etc: Path) -> None:
    target = etc / "passwd"
    target.write_text("root:x:0:0\n")
    vm = qcow2_vm(upload(share, target, "backing image"))
    assert guard.hook("prepare", vm).status == 0
    assert (locks_on(target), bool(locks_on(share / "t.qcow2"))) == ([], True)
    assert set(os.listdir(etc)) == {"passwd", ".pwd.lock"}
    guard.hook("release", vm)


def test_nor_does_it_get_one_when_qemu_has_it_open(guard: Guard, share: Path, etc: Path) -> None:
    target, plugged = etc / "passwd", make_disk(share / "plugged.raw")
    target.write_text("root:x:0:0\n")
    image = upload(share, target, "backing image")
    vm = Vm("web", [image])
    assert guard.hook("prepare", qcow2_vm(image, vm=vm)).status == 0
    with FakeQemu(guard.libvirt_dir, vm) as qemu:
        qemu.open(target, os.O_RDONLY)
        qemu.open(plugged)  # control: what it writes to is found, though no hook has announced it
        assert eventually(lambda: set(guard.guards("web").values()) == {"pinned"} and len(guard.guards("web")) > 1, 20)
        assert not eventually(lambda: str(target) in guard.guards("web"), 1.5)
        assert {lock.start for lock in locks_on(target)} <= set(range(100, 300)), "QEMU's own locks"
        qemu.kill()
    guard.hook("release", qcow2_vm(image, vm=vm))
    assert eventually(lambda: guard.nothing_left(image, plugged), 20)


# -- in the place of a record ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a FIFO", "a link", "another file", "a link for the folder"])
def test_a_record_is_written_nowhere_else(guard: Guard, share: Path, tmp_path: Path, what: str) -> None:
    disk, theirs = make_disk(share / "web.raw"), share / "theirs"
    mallory("cp", "/etc/hostname", theirs)
    before = theirs.read_bytes()
    record = share / FOLDER / f"{disk.stat().st_ino}.owner"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "a link for the folder":
        mallory("ln", "-s", elsewhere, share / FOLDER)
    else:
        mallory("mkdir", share / FOLDER)
        make = {"a FIFO": ("mkfifo", record), "a link": ("ln", "-s", theirs, record)}
        mallory(*make.get(what, ("ln", theirs, record)))
    watched = record if what == "a FIFO" else theirs
    vm = Vm("web", [disk])
    with OpenWatch(watched) as watch:
        assert guard.hook("prepare", vm.xml()).status == 0, "a record never stands in the way of a start"
        assert guard.vmguard("who", str(disk)).status == 0
        guard.hook("release", vm.xml())
        assert eventually(lambda: guard.nothing_left(disk))
        assert watch.opened() == set()
    assert (theirs.read_bytes(), list(elsewhere.iterdir())) == (before, [])


def test_negative_control_a_record_is_written_beside_the_disk(guard: Guard, share: Path) -> None:
    vm = Vm("web", [make_disk(share / "web.raw")])
    assert guard.hook("prepare", vm.xml()).status == 0
    assert {path.suffix for path in (share / FOLDER).iterdir()} == {".owner", ".disks"}
    guard.hook("release", vm.xml())


# -- a reader's lock ------------------------------------------------------------------------------------------------

_LOCK_A_BYTE = """
import fcntl, sys
f = open(sys.argv[1], "rb")
fcntl.lockf(f, fcntl.LOCK_SH, 1, 4096)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_reader_that_keeps_a_vm_from_starting_is_named(guard: Guard, share: Path) -> None:
    disk = make_disk(share / "web.raw")
    vm = Vm("web", [disk])
    assert guard.hook("prepare", vm.xml()).status == 0  # the record of this claim must not be taken for the reader's
    guard.hook("release", vm.xml())
    assert eventually(lambda: guard.nothing_left(disk))
    command = [*MALLORY, "/usr/bin/python3", "-c", _LOCK_A_BYTE, str(disk)]
    with track(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"locked\n"
        refused = guard.hook("prepare", vm.xml())
        name = f"a reader (a shared lock) on this host: python3 (pid {reader.pid}, user nobody)"
        assert refused.status == 1
        assert f"is locked by {name}" in refused.err
        assert "chmod o-rwx" in refused.err
        assert name in guard.vmguard("who", str(disk)).out
        reader.kill()
        reader.communicate()
    assert guard.hook("prepare", vm.xml()).status == 0, "control"
    guard.hook("release", vm.xml())


def test_a_lock_whose_descriptor_nobody_can_see_is_one_of_this_host(guard: Guard, share: Path) -> None:
    """It is on its way through a socket: no process has it open."""
    import fcntl
    import socket
    import struct

    disk = make_disk(share / "web.raw")
    fd = os.open(disk, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 4096, 1, 0))
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [b"x"], [fd])
        os.close(fd)
        refused = guard.hook("prepare", Vm("web", [disk]).xml())
    assert refused.status == 1
    assert "on this host: one whose descriptors cannot be seen" in refused.err
