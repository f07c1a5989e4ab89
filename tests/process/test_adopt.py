"""``vmguard adopt`` with a real daemon, in a corner with processes of its own: nobody else's VMs are seen there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import Guard, eventually, locks_on, make_disk
from tests.support.namespaces import Space
from tests.support.processes import track
from vmguard.core.sources.process_arguments import Kind, identity, kind_of, named_files, served

pytestmark = pytest.mark.process

#: opens what its arguments name as drives, and beats into the first
_CODE = """
import os, sys, time
names = [word.split(",")[0].removeprefix("file=") for word in sys.argv if word.startswith("file=")]
fds = [os.open(name, os.O_RDWR) for name in names]
print("ready", flush=True)
while True:
    os.pwrite(fds[0], b"%020d" % time.monotonic_ns(), 512)
    time.sleep(0.02)
"""


class Corner:
    """A daemon and QEMU-like writers, alone among themselves."""

    def __init__(self, folder: Path) -> None:
        self.space = Space(f"mount --bind {folder} {folder}", own_pids=True)
        self.guard = Guard(folder, prefix=self.space.prefix, unguarded={"take_up": "no"})
        self.writers: list[subprocess.Popen[str]] = []

    def start(self, name: str, *disks: Path, identity: str = "") -> subprocess.Popen[str]:
        words = ["-name", f"guest={name}", *(["-uuid", identity] if identity else [])]
        for disk in disks:
            words += ["-drive", f"file={disk},format=raw,if=virtio"]
        command = [
            "/bin/bash",
            "-c",
            'exec -a qemu-system-x86_64 "$@"',
            "-",
            sys.executable,
            "-IS",
            "-c",
            _CODE,
            *words,
        ]
        writer = track(subprocess.Popen([*self.space.prefix, *command], stdout=subprocess.PIPE, text=True))
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        self.writers.append(writer)
        return writer

    def adopt(self, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
        answer = self.guard.vmguard("adopt", "--json", *words)
        found = json.loads(answer.out)
        assert "vms" in found, (found, self.guard.log)
        return answer.status, {vm["name"]: vm for vm in found["vms"]}

    def vms(self) -> dict[str, dict[str, Any]]:
        """From inside: the daemon cannot see who asks from outside of its own numbering of processes."""
        return {vm["name"]: vm for vm in json.loads(self.guard.vmguard("status", "--json").out)["vms"]}

    def kill_daemon(self) -> None:
        """The daemon itself, not nsenter, which waits for it outside."""
        for child in Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        assert self.guard.process is not None
        self.guard.process.wait(10)
        self.guard.process = None

    def end(self) -> None:
        if self.guard.process is not None and self.guard.process.poll() is None:
            self.kill_daemon()
        for writer in self.writers:
            writer.kill()  # nsenter stops itself with its child, and then nobody would reap that
        self.space.end()
        self.guard.end()
        for writer in self.writers:
            writer.communicate()


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    corner = Corner(tmp_path)
    try:
        corner.guard.start()
        yield corner
    finally:
        corner.end()


def moving(path: Path) -> bool:
    before = path.read_bytes()[512:532]
    return eventually(lambda: path.read_bytes()[512:532] != before, 0.5)


def test_running_vms_are_pinned_without_being_touched(corner: Corner, tmp_path: Path) -> None:
    disks = [make_disk(tmp_path / f"disk{number}.raw") for number in range(3)]
    identities = [str(uuid.uuid4()) for _ in disks]
    for number, disk in enumerate(disks):
        corner.start(f"vm{number}", disk, identity=identities[number])
    status, found = corner.adopt("--all", "--dry-run")
    assert (status, {vm["result"] for vm in found.values()}) == (0, {"would-adopt"})
    assert not locks_on(*disks)
    status, found = corner.adopt("vm0", identities[1])
    assert status == 0
    assert {name: vm["result"] for name, vm in found.items()} == {"vm0": "adopted", "vm1": "adopted"}
    assert [file["guard"] for vm in found.values() for file in vm["files"]] == ["pinned", "pinned"]
    assert found["vm0"]["uuid"] == identities[0]
    status, found = corner.adopt("--all")
    assert {name: vm["result"] for name, vm in found.items()} == {"vm0": "guarded", "vm1": "guarded", "vm2": "adopted"}
    assert all(locks_on(disk) and moving(disk) for disk in disks)
    assert eventually(lambda: all(file["epoch"] == 1 for vm in corner.vms().values() for file in vm["files"]))
    text = corner.guard.vmguard("who", str(disks[0])).out
    assert "guarded here by VM 'vm0'" in text
    assert "locked by this host, held by python itself (pid " in text
    text = corner.guard.vmguard("status", "-v").out
    assert text.count("locked by this host, held by ") == 3
    assert corner.guard.vmguard("check", "vm0").status == 0
    corner.space.end()
    assert eventually(lambda: not locks_on(*disks))


def test_a_disk_that_somebody_else_has_is_named_and_the_vm_frozen(corner: Corner, tmp_path: Path) -> None:
    mine, both = make_disk(tmp_path / "mine.raw"), make_disk(tmp_path / "both.raw")
    lock = track(
        subprocess.Popen(
            [sys.executable, "-c", _LOCK, str(both)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    assert lock.stdout is not None
    assert lock.stdout.readline() == "locked\n"
    corner.start("one", mine)
    corner.start("two", both)
    status, found = corner.adopt("--all")
    assert status == 2
    assert {name: vm["result"] for name, vm in found.items()} == {"one": "adopted", "two": "conflict"}
    assert not moving(both)
    assert moving(mine)
    answer = corner.guard.vmguard("adopt", "two")
    assert answer.status == 2
    assert "CRITICAL: VM 'two'" in answer.out
    assert "NOT locked here: locked by another host" in answer.out
    assert "it is frozen" in answer.out
    answer = corner.guard.vmguard("status")
    assert answer.status == 2
    assert "CRITICAL: VM 'two'" in answer.out
    lock.communicate()
    status, found = corner.adopt("two")
    assert (status, found["two"]["state"], found["two"]["result"]) == (0, "running", "guarded")
    assert moving(both)


_LOCK = """
import sys
from vmguard.adapters.linux import ofd
stream = open(sys.argv[1], "r+b")
ofd.lock(stream.fileno(), sys.argv[1], ofd.WRITE, (0, 0))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_frozen_vm_is_still_in_conflict_after_a_restart_of_the_daemon(corner: Corner, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "both.raw")
    lock = track(
        subprocess.Popen(
            [sys.executable, "-c", _LOCK, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    assert lock.stdout is not None
    lock.stdout.readline()
    corner.start("two", disk)
    assert corner.adopt("two")[0] == 2
    corner.kill_daemon()
    lock.communicate()
    corner.guard.start()
    assert eventually(lambda: corner.vms()["two"]["files"][0]["guard"] == "pinned"), corner.guard.log
    assert corner.vms()["two"]["state"] == "conflict"
    assert not moving(disk)
    assert corner.adopt("two")[0] == 0
    assert moving(disk)


def test_a_process_without_a_name_is_adopted_by_its_pid(corner: Corner, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "bare.raw")
    corner.start("bare", disk)
    _, found = corner.adopt("--all", "--dry-run")
    pid = str(found["bare"]["pid"])
    status, found = corner.adopt("--pid", pid)
    assert (status, found["bare"]["hypervisor"], found["bare"]["files"][0]["guard"]) == (0, "bare", "pinned")
    uuid.UUID(found["bare"]["uuid"])
    answer = corner.guard.vmguard("adopt", "--pid", "1")
    assert answer.status == 3
    assert "pid 1 is no QEMU" in answer.err
    assert corner.guard.vmguard("adopt", "nobody").status == 3
    assert corner.guard.vmguard("adopt").status == 2


# -- what is QEMU, and whose helper is what -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "first", "kind"),
    [
        ("/usr/bin/qemu-system-x86_64", "/usr/bin/kvm", Kind.QEMU),
        ("/usr/bin/qemu-system-aarch64 (deleted)", "x", Kind.QEMU),
        ("/usr/libexec/qemu-kvm", "", Kind.QEMU),
        ("/usr/bin/python3", "qemu-system-x86_64", Kind.QEMU),
        ("/usr/bin/swtpm", "swtpm", Kind.SWTPM),
        ("/usr/libexec/virtiofsd", "", Kind.VIRTIOFSD),
        ("/usr/bin/qemu-storage-daemon", "", Kind.STORAGE_DAEMON),
        ("/usr/bin/qemu-img", "qemu-img", None),
        ("/usr/bin/vim", "/etc/qemu-system-x86_64.conf/vim", None),
    ],
)
def test_programs(program: str, first: str, kind: Kind | None) -> None:
    assert kind_of(program, [first] if first else []) is kind


def test_qemu_is_read_as_libvirt_proxmox_and_people_write_it() -> None:
    some = "5f0c1f4e-1111-2222-3333-444455556666"
    libvirt = identity(["qemu", "-name", "guest=a,,b,debug-threads=on", "-uuid", some.upper(), "-incoming", "defer"])
    assert (libvirt.name, libvirt.uuid, libvirt.incoming) == ("a,b", some, True)
    smbios = f"type=1,uuid={some}"
    proxmox = identity(["kvm", "-id", "100", "-name", "web,debug-threads=on", "-smbios", smbios, "-pidfile", "/x"])
    assert (proxmox.name, proxmox.uuid, proxmox.vmid, proxmox.pid_file) == ("web", some, "100", "/x")
    assert identity(["qemu", "-hda", "x"]).name == ""


def test_images_are_named_in_every_form() -> None:
    words = [
        "-drive",
        "file=/a/b,,c.raw,format=raw",
        "-blockdev",
        '{"driver":"file","filename":"/a/\\"q.raw"}',
        "driver=raw,file.filename=/a/d.raw",
        "-serial",
        "file:/a/log",
        "-pidfile",
        "/a/pid",
    ]
    assert named_files(words) == {"/a/b,c.raw", '/a/"q.raw', "/a/d.raw"}


def test_helpers_name_their_vm() -> None:
    some = "5f0c1f4e-1111-2222-3333-444455556666"
    assert served(["swtpm", "--tpmstate", f"dir=/var/lib/libvirt/swtpm/{some}/tpm2"]).uuids == {some}
    assert served(["virtiofsd", "--socket-path=/run/libvirt/qemu/domain-7-web/fs0.sock"]).short_names == {"web"}
