"""Somebody on another client may write to a folder of the share, no more: what root opens there, on real NFS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.guest import REPOSITORY
from tests.lab.hypervisor import Hypervisor
from tests.support.guarded_guests import SHARE, Guarded, Guest

pytestmark = pytest.mark.lab

CONFIG = "hook: {wait: 0s}\n"
OTHER, OPEN = "/srv/other", f"{SHARE}/open"
MALLORY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
_LOCK_A_BYTE = """
import fcntl, sys
file = open(sys.argv[1], "rb")
fcntl.lockf(file, fcntl.LOCK_SH, 1, 4096)
print("locked", flush=True)
sys.stdin.read()
"""
#: how many times some files are opened until its input ends
_COUNT_OPENS = """
import sys
sys.path.insert(0, sys.argv[1])
from vmguard.adapters.linux.inotify import Inotify
watch = Inotify()
for path in sys.argv[2:]:
    watch.add(path)
print("ready", flush=True)
sys.stdin.read()
print("opened", len(list(watch.events())), flush=True)
"""


class Place:
    """A guarded host, and a client on which somebody may write to one folder of the share."""

    def __init__(self, node: Guarded, client: Hypervisor) -> None:
        self.node, self.client = node, client

    def mallory(self, *command: str) -> None:
        self.client.run([*MALLORY, *command], 30)

    def refused(self, path: str) -> str:
        answer = self.node.claim(Guest("web", (path,)))
        assert answer.returncode == 1, answer
        return answer.stderr

    def started(self, path: str) -> None:
        guest = Guest("web", (path,))
        answer = self.node.claim(guest)
        assert answer.returncode == 0, answer.stderr
        self.node.hook(guest, "release")
        self.node.wait_released(guest)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab() as lab:
        options = "rw,sync,insecure,no_subtree_check,no_root_squash"
        server = lab.nfs_server(lease=10, grace=10, more_exports={OTHER: options})
        node, client = Guarded(lab.hypervisor("hyp-a"), CONFIG), lab.hypervisor("hyp-b")
        node.mount(server)
        node.host.mount(server, OTHER, "vers=4.2,hard", OTHER)
        client.mount(server, SHARE)
        client.run(f"mkdir -p {OPEN} && chmod 777 {OPEN}", 30)
        node.start_daemon()
        yield Place(node, client)


def test_no_fifo_device_or_link_out_of_the_share_is_opened(place: Place) -> None:
    host = place.node.host
    place.mallory("mkfifo", f"{OPEN}/fifo.raw")
    place.mallory("ln", "-s", "/etc/hostname", f"{OPEN}/out.raw")
    place.mallory("ln", "-s", "/dev/null", f"{OPEN}/link.raw")
    place.client.run(["mknod", f"{OPEN}/node.raw", "c", "1", "3"], 30)
    watched = [f"{OPEN}/fifo.raw", f"{OPEN}/node.raw", "/etc/hostname"]
    watch = host.spawn(["python3", "-c", _COUNT_OPENS, str(REPOSITORY), *watched], stdin=True)
    watch.wait_for("ready")
    assert "is a FIFO, not a file" in place.refused(f"{OPEN}/fifo.raw")
    assert "is a character device on a share" in place.refused(f"{OPEN}/node.raw")
    for name, end in (("out", "/etc/hostname"), ("link", "/dev/null")):
        said = place.refused(f"{OPEN}/{name}.raw")
        assert f"the symbolic link '{OPEN}/{name}.raw' on {SHARE} ends at '{end}'" in said
    watch.end_input()
    assert watch.wait(10).stdout.split()[-2:] == ["opened", "0"]


def test_links_and_chains_that_stay_on_the_shares_are_locked_as_ever(place: Place) -> None:
    host = place.node.host
    script = (
        f"qemu-img create -q -f qcow2 {OTHER}/base.qcow2 1M && ln -sfn {SHARE} /srv/images && "
        f"qemu-img create -q -f qcow2 -b {OTHER}/base.qcow2 -F qcow2 {OPEN}/clone.qcow2 && "
        f"ln -sf open/clone.qcow2 {SHARE}/inside.qcow2 && ln -sf {OTHER}/base.qcow2 {SHARE}/over.qcow2"
    )
    host.run(script, 30)
    for path in (f"{OPEN}/clone.qcow2", "/srv/images/open/clone.qcow2", f"{SHARE}/inside.qcow2", f"{SHARE}/over.qcow2"):
        place.started(path)
    guest = Guest("web", (f"{OPEN}/clone.qcow2",))
    assert place.node.claim(guest).returncode == 0
    found = place.node.wait_for(guest, lambda vm: len(vm["files"]) == 2)
    assert {file["path"]: file["mode"] for file in found["files"]} == {
        f"{OPEN}/clone.qcow2": "exclusive",
        f"{OTHER}/base.qcow2": "shared",
    }
    place.node.hook(guest, "release")
    place.node.wait_released(guest)


def test_no_header_makes_root_lock_a_file_of_the_host(place: Place) -> None:
    host = place.node.host
    make = f"mkdir -p /srv/victim && qemu-img create -q -f qcow2 -o data_file=/srv/victim/lock {OPEN}/t.qcow2 1M"
    host.run(make, 30)
    assert f"'{OPEN}/t.qcow2' names '/srv/victim/lock' in its header" in place.refused(f"{OPEN}/t.qcow2")
    assert host.run("ls -A /srv/victim", 30).stdout.split() == ["lock"]
    host.run(f"qemu-img create -q -f qcow2 -u -b /srv/victim/lock -F raw {OPEN}/b.qcow2 1M", 30)
    guest = Guest("web", (f"{OPEN}/b.qcow2",))
    assert place.node.claim(guest).returncode == 0
    found = place.node.wait_for(guest, lambda vm: bool(vm["files"]))
    assert [file["path"] for file in found["files"]] == [f"{OPEN}/b.qcow2"], "what it is based on is only read"
    place.node.hook(guest, "release")
    place.node.wait_released(guest)


def test_another_file_with_a_records_name_is_not_written(place: Place) -> None:
    """A server lets everybody link files of others: the kernel's protected_hardlinks is the client's."""
    host, folder = place.node.host, f"{SHARE}/theirs"
    host.run(f"mkdir {folder}; chmod 777 {folder}; truncate -s 1M {folder}/web.raw", 30)
    host.run(f"echo precious > {SHARE}/precious; chmod 600 {SHARE}/precious", 30)
    inode = host.run(f"stat -c %i {folder}/web.raw", 30).stdout.strip()
    place.client.run(["sysctl", "-qw", "fs.protected_hardlinks=0"], 30)
    place.mallory("mkdir", f"{folder}/.vmguard")
    place.mallory("ln", f"{SHARE}/precious", f"{folder}/.vmguard/{inode}.owner")
    place.started(f"{folder}/web.raw")
    assert host.get(f"{SHARE}/precious") == b"precious\n"


def test_a_reader_on_another_host_is_told_from_a_vm(place: Place) -> None:
    host = place.node.host
    host.run(f"truncate -s 1M {OPEN}/read.raw; chmod 644 {OPEN}/read.raw", 30)
    reader = place.client.spawn([*MALLORY, "python3", "-c", _LOCK_A_BYTE, f"{OPEN}/read.raw"], stdin=True)
    reader.wait_for("locked")
    said = place.refused(f"{OPEN}/read.raw")
    reader.end_input()
    reader.wait(10)
    assert "is locked by a reader (a shared lock) on another host" in said
    assert "chmod o-rwx" in said
    place.started(f"{OPEN}/read.raw")
