"""Which file a disk is: replaced under its VM, an inode number used again, an absent share, a share of another kind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.guest import PYTHON
from tests.lab.heartbeat import heartbeat_disk
from tests.support.guarded_guests import LOCK_WHOLE_FILE, VMGUARD, Guarded, Guest, two_nodes
from tests.support.watched_guests import clean_up, started, vmguard, wait_until

pytestmark = pytest.mark.lab

CONFIG = "hook: {wait: 0s}\n"
ABSENT, STRANGE = "/srv/absent", "/srv/strange"

Cluster = tuple[NfsServer, Guarded, Guarded]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        yield two_nodes(lab, CONFIG)


def release(node: Guarded, guest: Guest) -> None:
    node.hook(guest, "release")
    node.wait_released(guest)


def test_a_vm_whose_disk_was_replaced_is_not_started_on_the_new_file(cluster: Cluster) -> None:
    """As when somebody restores a backup in place while the VM runs."""
    _, a, b = cluster
    guest, vm = started(a, "restored")
    [disk] = guest.paths
    b.host.put(f"{disk}.tmp", heartbeat_disk("raw"))
    b.host.run(["mv", f"{disk}.tmp", disk])
    refused = b.claim(guest)
    assert refused.returncode == 1
    assert "host hyp-a claimed it on another file, which was replaced since" in refused.stderr
    vm.wait_beats(3)
    stranger = Guest("stranger", guest.paths)
    assert b.claim(stranger).returncode == 0, "negative control: nobody has the new file locked"
    release(b, stranger)
    # its NFS client believes what it knows of a folder for up to 60 s (acdirmax)
    told = wait_until(
        "its own host says so", lambda: "is another file now" in vmguard(a, "check", guest.name), 70, a.log
    )
    print(f"the host that runs it says that its disk was replaced after {told:.1f} s")
    clean_up(a, (guest, vm))
    wait_until("its claim has ended", lambda: b.claim(guest).returncode == 0, 10, a.log)
    release(b, guest)


def test_the_record_of_a_deleted_disk_names_nobody_when_its_number_is_used_again(cluster: Cluster) -> None:
    server, a, b = cluster
    old, new = Guest("old"), Guest("new")
    a.make_disks(old)
    assert a.claim(old).returncode == 0
    a.kill_daemon()  # a crash: the claim was never released
    [path] = new.paths
    inode = server.run(f"stat -c %i {old.paths[0]}; rm {old.paths[0]}").stdout
    wait_until("its number is used again", lambda: _make(server, path) == inode, 20, a.log)
    foreign = a.host.spawn([PYTHON, "-c", LOCK_WHOLE_FILE, path])
    foreign.wait_for("^locked", 10)
    refused = b.claim(new)
    assert refused.returncode == 1
    named = f"the owner record names another file, {old.paths[0]} of VM 'old': it was renamed, or that one was deleted"
    assert named in refused.stderr
    foreign.kill()
    wait_until("it is free", lambda: b.claim(new).returncode == 0, 10, b.log)
    release(b, new)
    a.start_daemon()
    release(a, old)


def _make(server: NfsServer, path: str) -> str:
    """Make a file anew; return its inode number."""
    return server.run(f"rm -f {path}; truncate -s 1M {path}; stat -c %i {path}").stdout


def test_the_bare_folder_of_a_share_in_fstab_is_not_the_share(cluster: Cluster) -> None:
    server, a, _ = cluster
    guest = Guest("stale-copy", (f"{ABSENT}/web.raw",))
    a.host.run(["mkdir", "-p", ABSENT])
    a.make_disks(guest)
    assert a.claim(guest).returncode == 0, "negative control: nothing says that a share belongs there"
    release(a, guest)
    a.host.run(f"echo {server.source()} {ABSENT} nfs4 vers=4.2,hard 0 0 >> /etc/fstab")
    refused = a.claim(guest)
    assert refused.returncode == 1
    assert f"lies below {ABSENT}, where {server.source()} is not mounted (/etc/fstab)" in refused.stderr
    assert f"do now   : mount {ABSENT}" in refused.stderr
    a.host.run(["mount", ABSENT], 30)
    a.make_disks(guest)
    assert a.claim(guest).returncode == 0, "what the refusal says is the cure"
    release(a, guest)
    a.host.run(f"umount {ABSENT}; sed -i '\\#{ABSENT}#d' /etc/fstab")


def test_a_share_on_which_locks_stay_on_their_host_is_never_called_guarded(cluster: Cluster) -> None:
    """The kernel's own proof: both hosts get the lock of one file."""
    _, *nodes = cluster
    guest = Guest("strange", (f"{STRANGE}/web.raw",))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "web.raw").write_bytes(heartbeat_disk("raw"))
        for node in nodes:
            node.host.run(f"mkdir -p {STRANGE}; mount -t hostfs none {STRANGE} -o {folder}")
        for node in nodes:  # negative control: the second one succeeds
            claimed = node.claim(guest)
            assert claimed.returncode == 0
            assert "is not guarded against other hosts" in node.log()
            checked = node.check(guest.name)
            assert checked["exit"] == 1
            assert [disk["verdict"] for disk in checked["disks"]] == ["other-mount"], checked
            doctor = node.host.run([VMGUARD, "doctor", STRANGE], 60, check=False)
            assert "hostfs" in doctor.stdout
        for node in nodes:
            release(node, guest)
            node.host.put("/etc/vmguard/vmguard.yaml", f"{CONFIG}policy: {{other_mounts: refuse}}\n".encode())
            node.host.run("kill -HUP $(pgrep -o -x vmguard)")
        time.sleep(1)
        for node in nodes:
            refused = node.claim(guest)
            assert refused.returncode == 1, node.log()
            assert "cannot be guarded" in refused.stderr
            node.host.run(["umount", STRANGE])
            node.install()
            node.host.run("kill -HUP $(pgrep -o -x vmguard)")
