"""What the doctor sees: of mounts in the kernel's own words, of a scratch file, of a share, of this host's identity."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmguard.adapters.linux import mounts
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.storage import nfs_client_id
from vmguard.cli import doctor as command
from vmguard.cli.output import Output
from vmguard.config import Config
from vmguard.core.locks.owner_record import Owner, slot
from vmguard.core.reports.health import Health
from vmguard.core.reports.status import Status
from vmguard.doctor import look_mount, look_proxmox, look_share, mend, scratch
from vmguard.doctor.examine import Wanted, examine
from vmguard.doctor.facts import IdentityFacts, MountFacts
from vmguard.doctor.finding import Finding, Level
from vmguard.errors import BadInput
from vmguard.query.places import Places

#: of a Debian 12 client: an NFSv4.2 mount, an NFSv3 mount, and something that is none
MOUNTSTATS = """\
device proc mounted on /proc with fstype proc
device nas:/vm mounted on /srv/v\\040m with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2,rsize=131072,hard,proto=tcp,timeo=600,retrans=2,sec=sys,local_lock=none
\tage:\t4321
\tnfsv4:\tbm0=0xfdffbfff,acl=0x3,sessions,pnfs=LAYOUT_FLEX_FILES,lease_time=90,lease_expired=0
\tevents:\t1 2 3
\tper-op statistics
\t        READ: 7 7 0 1176 29000 0 3 3 0
\t        LOCK: 5 5 0 1000 560 0 4 4 1
\t       LOCKU: 4 4 0 800 448 0 2 2 0
\t DELEGRETURN: 3 3 0 1 1 0 1 1 0
\tRECLAIM_COMPLETE: 1 1 0 1 1 0 1 1 0
device old:/x mounted on /mnt/old with fstype nfs statvers=1.1
\tage:\t10
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
"""


def test_mounts_are_read_from_the_kernels_own_words(tmp_path: Path) -> None:
    (tmp_path / "mountstats").write_text(MOUNTSTATS)
    table = [
        Mount(1, 20, "/", "ext4", "/dev/vda", "rw"),
        Mount(2, 50, "/srv/v m", "nfs4", "nas:/vm", "rw,vers=4.2,hard,proto=tcp,local_lock=none"),
        Mount(3, 51, "/mnt/old", "nfs", "old:/x", "rw,vers=3,nolock", read_only=True),
    ]
    new, old = look_mount.look(table, str(tmp_path / "mountstats"))
    assert (new.point, new.version, new.lease, new.age, new.pnfs) == ("/srv/v m", "4.2", 90, 4321, "LAYOUT_FLEX_FILES")
    assert (new.delegations, new.reclaim_complete) == (3, 1)
    assert (old.version, old.lease, "ro" in old.options, "nolock" in old.options) == ("3", 0, True, True)
    assert "ro" not in new.options


def test_a_mount_that_another_one_hides_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "mountstats").write_text("")
    table = [
        Mount(1, 50, "/srv", "nfs4", "nas:/a", "vers=4.2"),
        Mount(2, 51, "/srv", "nfs4", "nas:/b", "vers=4.2"),
    ]
    assert [mount.source for mount in look_mount.look(table, str(tmp_path / "mountstats"))] == ["nas:/b"]


def test_the_servers_id_of_a_file_system(tmp_path: Path) -> None:
    (tmp_path / "mountstats").write_text("")
    volumes = tmp_path / "volumes"
    volumes.write_text(
        "NV SERVER   PORT DEV          FSID         FSC\nv4 0a000005  801 0:50         3f2a:9be1    no\n"
    )
    table = [Mount(1, 50, "/srv", "nfs4", "nas:/a", "vers=4.2"), Mount(2, 51, "/b", "nfs4", "nas:/b", "vers=4.2")]
    found = look_mount.look(table, str(tmp_path / "mountstats"), str(volumes))
    assert [mount.fsid for mount in found] == ["3f2a:9be1", ""]


def test_other_shared_file_systems_without_those_that_hold_no_disks() -> None:
    table = [
        Mount(1, 20, "/", "ext4", "/dev/vda", "rw"),
        Mount(2, 21, "/srv/c", "ceph", "mon:/", "rw"),
        Mount(3, 22, "/etc/pve", "fuse", "/dev/fuse", "rw"),
        Mount(4, 23, "/var/lib/lxcfs", "fuse.lxcfs", "lxcfs", "rw"),
        Mount(5, 24, "/mnt/old", "nfs", "old:/x", "rw,vers=3"),
    ]
    assert [mount.point for mount in look_mount.look_others(table)] == ["/srv/c"]


def test_this_hosts_own_mounts_can_be_read() -> None:
    assert all(isinstance(mount, MountFacts) for mount in look_mount.look(list(mounts.mounts())))


@pytest.mark.parametrize(("path", "point"), [("/a/b/c", "/a/b"), ("/a/bc", "/a"), ("/a", "/a"), ("/x", None)])
def test_the_mount_below_which_a_path_lies(path: str, point: str | None) -> None:
    known = [MountFacts(name, "nas:/", "4.2") for name in ("/a", "/a/b")]
    found = look_mount.mount_of(path, known)
    assert (found.point if found else None) == point


# -- a scratch file -------------------------------------------------------------------------------------------------


def test_locks_on_a_file_system_that_has_them(tmp_path: Path) -> None:
    facts = scratch.attempt(str(tmp_path), "/nowhere", False, "nobody")
    assert (facts.locked, facts.conflict, facts.sub_range) == (True, True, True)
    assert facts.lock_requests is None, "no NFS, no requests"
    assert facts.squashed == ""
    assert os.listdir(tmp_path) == []


def test_what_an_attempt_that_was_killed_left_behind_does_not_stand_in_the_way(tmp_path: Path) -> None:
    left = tmp_path / f".vmguard-doctor-{os.uname().nodename}-{zlib.crc32(b'/nowhere'):08x}-lock"
    left.write_text("")
    assert scratch.attempt(str(tmp_path), "/nowhere", False, "nobody").locked
    assert not left.exists()


def test_a_folder_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    assert scratch.attempt(str(tmp_path / "gone"), "/nowhere", False, "nobody").error[0] == "ENOENT"


# -- what lies on a share -------------------------------------------------------------------------------------------


def _write_now_and_then(folder: Path, names: tuple[str, ...], stop: threading.Event) -> None:
    """As a VM of a host without vmguard would; none of these files stays open. The old one begins late."""
    while not stop.wait(0.4):
        for name in names:
            (folder / name).write_text(str(time.time()))


def test_claims_of_all_hosts_and_images_that_are_written_to_without_a_lock(tmp_path: Path) -> None:
    folder = tmp_path / "vms/.vmguard"
    folder.mkdir(parents=True)
    claims = [Owner(n, host=f"hyp-{n}", machine="m", boot="b", claimed="2026-11-21T09:00:00Z") for n in (1, 2)]
    (folder / "7.owner").write_bytes(b"".join(map(slot, claims)) + b"torn")
    for name in ("fresh.raw", "old.raw", "held.raw", "just-made.raw", "notes.txt"):
        (tmp_path / "vms" / name).write_text("x")
    long_ago = time.time() - 3600
    os.utime(tmp_path / "vms/old.raw", (long_ago, long_ago))
    stop = threading.Event()
    writer = threading.Thread(target=_write_now_and_then, args=(tmp_path / "vms", ("fresh.raw", "old.raw"), stop))
    writer.start()
    with (tmp_path / "vms/held.raw").open("r+"):
        found = look_share.look(str(tmp_path), ".vmguard")
    stop.set()
    writer.join()
    assert [record.host for record in found.records] == ["hyp-1", "hyp-2"]
    assert [os.path.basename(path) for path in found.unlocked_writes] == ["fresh.raw"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_images_and_folders_that_others_may_read_or_write(tmp_path: Path) -> None:
    def make(name: str, mode: int) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(mode)
        return str(path)

    tmp_path.chmod(0o755)
    read, written, hidden = make("a.qcow2", 0o644), make("b.raw", 0o666), make("closed/c.raw", 0o666)
    make("d.raw", 0o660)
    (tmp_path / "notes.txt").touch(0o666)
    (tmp_path / "link.raw").symlink_to("/etc/passwd")
    os.chown(make("e.raw", 0o600), 1234, 0)
    for folder, mode in (("closed", 0o700), ("open", 0o777)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder).chmod(mode)
    make("open/f.raw", 0o600)
    (tmp_path / ".vmguard").mkdir()
    os.chown(tmp_path / ".vmguard", 2345, 0)
    make(".vmguard/1.owner", 0o644)
    forged = make(".vmguard/2.owner", 0o666)
    found = look_share.look(str(tmp_path), ".vmguard").modes
    assert found.readable == (read,)
    assert set(found.writable) == {written, str(tmp_path / "open"), forged}
    assert set(found.owned) == {f"{tmp_path}/e.raw (user 1234)", f"{tmp_path}/.vmguard (user 2345)"}
    assert hidden not in found.readable + found.writable, "control: nobody gets into its folder"


# -- identity -------------------------------------------------------------------------------------------------------

ME = IdentityFacts(name="hyp-a", unique_id="", hardware="cafe")
MOUNTED = [MountFacts("/srv/vm", "nas:/vm", "4.2")]


def test_an_id_is_made_once_and_before_the_first_mount_it_counts_at_once() -> None:
    chosen = mend.plan(ME, [])
    assert (chosen.write, chosen.now) == (True, True)
    assert mend.plan(replace(ME, unique_id=None), []).now is False, "without the module there is nothing to set"
    settled = replace(ME, unique_id="x", persistent="x", made_on="cafe")
    assert (mend.plan(settled, []).write, mend.plan(settled, []).now) == (False, False)


def test_under_a_mount_the_id_in_force_is_left_alone() -> None:
    """A client id that changed under its mounts would be another client: its locks would be nobody's."""
    chosen = mend.plan(ME, MOUNTED)
    assert (chosen.write, chosen.now) == (True, False)
    assert "/srv/vm goes on under the old identity" in chosen.text


def test_an_id_that_came_with_a_clone_is_replaced_and_one_that_an_admin_chose_is_kept() -> None:
    assert mend.plan(replace(ME, unique_id="x", persistent="x", made_on="beef"), []).write
    assert not mend.plan(replace(ME, unique_id="x", persistent="x", made_on=""), []).write


def test_the_id_is_written_so_that_modprobe_and_the_doctor_read_it(tmp_path: Path) -> None:
    conf = tmp_path / "vmguard-nfs.conf"
    unique_id = mend.carry_out(mend.Plan(True, False, ""), ME, str(conf))
    assert nfs_client_id.persistent((str(tmp_path),)) == (unique_id, str(conf), "cafe")
    assert f"options nfs nfs4_unique_id={unique_id}\n" in conf.read_text()


def test_of_several_lines_of_modprobe_the_last_counts_and_other_options_do_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("options nfs nfs4_unique_id=first\n")
    (tmp_path / "b.conf").write_text(
        "# options nfs nfs4_unique_id=no\noptions nfs max_session_slots=9 nfs4_unique_id=b\n"
    )
    assert nfs_client_id.persistent((str(tmp_path),))[0] == "b"
    assert nfs_client_id.persistent((str(tmp_path / "none"),)) == ("", "", "")


# -- Proxmox VE -----------------------------------------------------------------------------------------------------


DPKG = """\
Package: python3
Status: install ok installed
Version: 3.13.5-1

Package: pve-manager
Status: install ok installed
Priority: optional
Description: Proxmox Virtual Environment Management Tools
 This package contains the management tools.
Version: 9.1.6

"""


def test_proxmox_that_was_removed_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(
        DPKG.replace("Package: pve-manager\nStatus: install ok", "Package: pve-manager\nStatus: deinstall ok")
    )
    assert look_proxmox.look(Config(), 5, str(tmp_path / "status")).version is None


# -- the command ----------------------------------------------------------------------------------------------------

FINDINGS = [
    Finding("host.clock", "host", Level.OK, "the clock is synchronised"),
    Finding("mount.hard", "/srv/vm", Level.FAIL, "mounted soft", "umount it"),
    Finding("host.identity", "host", Level.WARN, "it is the host name", "vmguard doctor --fix identity"),
]


HEALTH = Health(Status.WARNING, "maintenance", "vmguard arm")


def show(as_json: bool = False) -> int:
    out = Output(as_json=as_json)
    status = command.show(FINDINGS, argparse.Namespace(json=as_json, verbose=0), out, HEALTH, {})
    out.flush()
    return status


def test_the_worst_finding_stands_first_with_why_and_what_mends(capsys: pytest.CaptureFixture[str]) -> None:
    assert show() == 2
    assert capsys.readouterr().out.splitlines() == [
        "WARNING: maintenance",
        "",
        "FAIL: /srv/vm: mounted soft  [mount.hard]",
        f"      why   : {FINDINGS[1].why}",
        "      do now: umount it",
        "WARN: host: it is the host name  [host.identity]",
        f"      why   : {FINDINGS[2].why}",
        "      do now: vmguard doctor --fix identity",
        "OK: host.clock (-v tells more)",
        "",
        "1 FAIL, 1 WARN, 1 OK",
        "do now: vmguard arm",
    ]


def test_machines_get_every_finding_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(as_json=True) == 2
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["status"]) == (1, "CRITICAL")
    assert [set(item) for item in said["findings"]] == [
        {"check", "subject", "level", "text", "why", "mend", "muted"}
    ] * 3


def test_a_subject_that_is_on_no_share_is_told() -> None:
    with pytest.raises(BadInput, match="is on no NFS mount of this host"):
        examine(Config(), Places("/run/x", "", "", ""), Wanted("/proc/self"))


def test_booted_is_a_time_of_day_that_compares_with_claims() -> None:
    from vmguard.doctor.look_host import look_identity

    booted = look_identity().booted
    assert booted < f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert len(booted) == len("2026-11-21T09:00:00Z")
