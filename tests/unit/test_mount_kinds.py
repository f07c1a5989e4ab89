"""Each mount is NFSv4, this host's own, or "other", by the text of mountinfo alone; and what a claim makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmguard.adapters.linux import mounts, ofd, proc
from vmguard.adapters.linux.mounts import NFSV4, OTHER, OWN, Mount, kind_of
from vmguard.adapters.proxmox import cluster_view
from vmguard.cli import metrics
from vmguard.core.locks.plan import BACKING, DISK, EXCLUSIVE, LOADER, NETWORK, NVRAM, OTHER_MOUNT, SHARED, PlannedFile
from vmguard.core.reports.status import Status
from vmguard.core.reports.vm_report import VmReport
from vmguard.daemon.scan.process_fds import MountTables
from vmguard.doctor import examine
from vmguard.errors import BadInput, LockUnavailable
from vmguard.hook import claim_on_share
from vmguard.hook.claim_on_share import ClaimedFile
from vmguard.protocol.messages import ClaimPolicy
from vmguard.query import ask_share, other_mounts, reports, start_plan, wording
from vmguard.query.answers import VmAnswer
from vmguard.query.places import Places

#: makes the mounts that this process sees
Show = Callable[[Iterable[Mount]], None]

_DEVICE = 77
_OWN = ("ext4", "xfs", "btrfs", "zfs", "bcachefs", "tmpfs", "hugetlbfs", "vfat", "ntfs3", "fuseblk", "iso9660")
_OTHER = (
    *("cifs", "smb3", "ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs", "fuse.juicefs", "fuse.bindfs", "fuse"),
    *("9p", "virtiofs", "gfs2", "ocfs2", "lustre", "beegfs", "afs", "gpfs", "vboxsf", "scoutfs", "something-new"),
)


def mount(kind: str, options: str = "rw", point: str = "/srv/vm", source: str = "nas:/vm") -> Mount:
    return Mount(1, _DEVICE, point, kind, source, options)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    def show(table: Iterable[Mount]) -> None:
        monkeypatch.setattr(mounts, "mounts", lambda pid="self": iter(table))

    return show


@pytest.mark.parametrize("kind", _OWN)
def test_a_file_system_of_this_hosts_own(kind: str) -> None:
    assert kind_of(mount(kind)) == OWN


@pytest.mark.parametrize("kind", _OTHER)
def test_anything_that_is_not_known_is_other_and_says_why(kind: str) -> None:
    assert kind_of(mount(kind)) == OTHER
    assert mounts.why_other(mount(kind)).startswith(f"/srv/vm is a {kind} file system")


@pytest.mark.parametrize(
    ("kind", "options", "wanted"),
    [
        ("nfs4", "rw,vers=4.2,hard,local_lock=none", NFSV4),
        ("nfs4", "rw,vers=4.1,soft,local_lock=none", NFSV4),
        ("nfs4", "rw,vers=4.0,hard", NFSV4),
        ("nfs", "rw,vers=4.2", NFSV4),
        ("nfs", "rw,vers=3,hard,local_lock=none", OTHER),
        ("nfs", "rw,vers=3,nolock,local_lock=all", OTHER),
        ("nfs", "rw,hard", OTHER),
        ("nfs4", "rw,vers=4.2,local_lock=posix", OTHER),
        ("nfs4", "rw,vers=4.2,local_lock=flock", NFSV4),
    ],
)
def test_nfs_is_guarded_only_where_a_lost_lock_is_noticed(kind: str, options: str, wanted: str) -> None:
    assert kind_of(mount(kind, options)) == wanted


@pytest.mark.parametrize(("below", "wanted"), [("ext4", OWN), ("cifs", OTHER), ("nfs4", OTHER), ("fuse.x", OTHER)])
def test_a_stacked_file_system_keeps_its_locks_to_itself(below: str, wanted: str) -> None:
    """Neither hands a lock to the file below (fs/overlayfs/file.c, fs/ecryptfs/file.c): on NFSv4 it reaches nobody."""
    table = [mount("ext4", point="/"), mount(below, "rw,vers=4.2" if below == "nfs4" else "rw", "/mnt/a b")]
    stacked = [
        mount("overlay", "rw,lowerdir=/l,upperdir=/mnt/a\\040b/upper,workdir=/w", "/srv/vm", "overlay"),
        mount("ecryptfs", "rw", "/srv/vm", "/mnt/a b/secret"),
    ]
    assert {kind_of(top, [*table, top]) for top in stacked} == {wanted}
    upon = mount("overlay", "rw,upperdir=/srv/vm/upper", "/srv/more", "overlay")
    assert {kind_of(upon, [*table, top, upon]) for top in stacked} == {wanted}, "one upon the other"
    itself = mount("overlay", "rw,upperdir=/srv/vm/upper", "/srv/vm", "overlay")
    assert kind_of(itself, [*table, itself]) == OWN, "its folder is the one that it hides"
    assert kind_of(mount("overlay", "ro,lowerdir=/mnt/a\\040b"), table) == OWN, "nothing is written"


@pytest.mark.parametrize(("below", "wanted"), [("ext4", OWN), ("nfs4", OTHER), ("nfs", OTHER), ("cifs", OTHER)])
def test_a_file_system_in_an_image_is_this_hosts_own_if_the_image_is(below: str, wanted: str) -> None:
    table = [mount("ext4", point="/"), mount(below, "rw,vers=4.2" if below == "nfs4" else "rw", "/mnt/nas")]
    top = mount("ext4", source="/dev/loop7")
    assert kind_of(top, [*table, top]) == OWN, "control: no loop device is known"
    top.image = "/mnt/nas/images/vms.img"
    assert kind_of(top, [*table, top]) == wanted
    assert "/mnt/nas/images/vms.img" in mounts.why_other(top)


@pytest.mark.parametrize(
    ("device", "image"),
    [("loop7", "/mnt/nas/a b.img"), ("loop7p2", "/mnt/nas/a b.img"), ("loop8", ""), ("loop-x", ""), ("loop", "")],
)
def test_the_kernel_names_the_file_behind_a_loop_device(tmp_path: Path, device: str, image: str) -> None:
    (tmp_path / "loop7").write_text("/mnt/nas/a b.img\n")
    assert mounts.image_behind(f"/dev/{device}", f"{tmp_path}/{{}}") == image


def test_a_path_lies_on_the_deepest_mount_and_the_later_of_two() -> None:
    table = [
        mount("ext4", point="/"),
        mount("xfs", point="/srv"),
        mount("cifs", point="/srv"),
        mount("9p", point="/sr"),
    ]
    found = [mounts.mount_of_path(path, table) for path in ("/srv/a", "/srv", "/srvx", "/sr/a")]
    assert [one.type for one in found if one is not None] == ["cifs", "cifs", "ext4", "9p"]


# -- the claim -------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path, show: Show) -> Iterator[Callable[..., ClaimedFile]]:
    """Makes an opened file of a VM that seems to lie on a mount."""
    fds = []

    def make(mode: str, role: str, where: Mount) -> ClaimedFile:
        path = tmp_path / "a.raw"
        path.touch()
        fd = os.open(path, os.O_RDWR if mode == EXCLUSIVE else os.O_RDONLY)
        fds.append(fd)
        show([where])
        return ClaimedFile(PlannedFile("/srv/vm/a.raw", mode, role, "disk vda"), fd, (_DEVICE, 5), [])

    yield make
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue


def judge(file: ClaimedFile, policy: ClaimPolicy | None = None) -> tuple[bool, list[str]]:
    """Return whether a claim locks a file, and its warnings."""
    warnings: list[str] = []
    kept = claim_on_share._judge_mounts([file], policy or ClaimPolicy("refuse", "lock", {}), warnings)
    return bool(kept), warnings


_UNSAFE = {
    "NFSv3": mount("nfs", "rw,vers=3,hard,local_lock=none"),
    "nolock": mount("nfs", "rw,vers=3,nolock,local_lock=all"),
    "local_lock": mount("nfs4", "rw,vers=4.2,local_lock=posix", "/", "nas:/root"),
}


@pytest.mark.parametrize("name", _UNSAFE)
@pytest.mark.parametrize("role", [DISK, BACKING, LOADER])
def test_what_nobody_writes_to_is_no_reason_to_refuse(opened: Callable[..., ClaimedFile], name: str, role: str) -> None:
    locked, warnings = judge(opened(SHARED, role, _UNSAFE[name]))
    assert warnings == []
    assert locked == (name != "NFSv3"), "lockd may refuse a lock, or the server keep it for ever"


@pytest.mark.parametrize("name", _UNSAFE)
@pytest.mark.parametrize("role", [DISK, NVRAM])
def test_control_a_writable_file_there_is_refused_and_the_policy_is_obeyed(
    opened: Callable[..., ClaimedFile], name: str, role: str
) -> None:
    with pytest.raises(LockUnavailable, match="cannot be guarded: /") as refused:
        judge(opened(EXCLUSIVE, role, _UNSAFE[name]))
    assert refused.value.hint == "mount it with vers=4.2,hard"
    locked, warnings = judge(opened(EXCLUSIVE, role, _UNSAFE[name]), ClaimPolicy("warn", "lock", {}))
    assert locked
    assert warnings == [mounts.why_unsafe(_UNSAFE[name])]


@pytest.mark.parametrize("kind", _OTHER)
def test_a_writable_disk_on_another_shared_file_system_is_named(opened: Callable[..., ClaimedFile], kind: str) -> None:
    locked, warnings = judge(opened(EXCLUSIVE, DISK, mount(kind)))
    assert locked == (kind not in mounts.SMB_TYPES)
    (text,) = warnings
    assert text.startswith(
        f"disk vda (/srv/vm/a.raw) is not guarded against other hosts: /srv/vm is a {kind} file system"
    )
    with pytest.raises(LockUnavailable, match=f"/srv/vm is a {kind} file system") as refused:
        judge(opened(EXCLUSIVE, DISK, mount(kind)), ClaimPolicy("warn", "lock", {OTHER_MOUNT: "refuse"}))
    assert "policy.other_mounts" in refused.value.hint


@pytest.mark.parametrize("kind", _OTHER)
def test_a_medium_there_is_locked_without_a_word_but_never_on_smb(
    opened: Callable[..., ClaimedFile], kind: str
) -> None:
    policy = ClaimPolicy("refuse", "lock", {OTHER_MOUNT: "refuse", NETWORK: "refuse"})
    assert judge(opened(SHARED, DISK, mount(kind)), policy) == (kind not in mounts.SMB_TYPES, [])


def test_smb_is_refused_by_the_policy_that_decided_about_it_before(opened: Callable[..., ClaimedFile]) -> None:
    with pytest.raises(LockUnavailable, match="SMB's locks are mandatory"):
        judge(opened(EXCLUSIVE, DISK, mount("cifs")), ClaimPolicy("refuse", "lock", {NETWORK: "refuse"}))


@pytest.mark.parametrize("mode", [EXCLUSIVE, SHARED])
def test_a_file_system_without_locks_starts_unlocked_where_the_policy_only_warns(
    opened: Callable[..., ClaimedFile], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def none_here(*_: object) -> None:
        raise LockUnavailable("x", "this file system does not support byte-range locks (ENOSYS)")

    monkeypatch.setattr(ofd, "lock", none_here)
    assert judge(opened(mode, DISK, mount("lustre")))[0] is False
    assert judge(opened(mode, DISK, mount("nfs4", "rw,vers=4.2")))[0] is True, "control: there it is an error"


def test_controls_nfsv4_and_this_hosts_own_are_locked_without_a_word(opened: Callable[..., ClaimedFile]) -> None:
    everything_refused = ClaimPolicy("refuse", "ignore", {OTHER_MOUNT: "refuse"})
    assert judge(opened(EXCLUSIVE, DISK, mount("nfs4", "rw,vers=4.2,hard")), everything_refused) == (True, [])
    assert judge(opened(EXCLUSIVE, DISK, mount("ext4"))) == (True, [])
    assert judge(opened(EXCLUSIVE, DISK, mount("ext4")), everything_refused) == (False, []), "local_filesystems: ignore"
    ignore = ClaimPolicy("refuse", "ignore", {})
    assert judge(opened(EXCLUSIVE, DISK, mount("ceph")), ignore)[0], "another host's, too: not ignored"


def test_a_device_that_no_mount_has_is_looked_up_by_the_mount_of_the_file(
    opened: Callable[..., ClaimedFile], show: Show
) -> None:
    """btrfs gives each subvolume a device of its own, which mountinfo does not show."""
    mine = list(mounts.mounts())
    file = opened(EXCLUSIVE, DISK, mount("ceph"))
    file.key = (1, 5)
    show(mine)
    assert judge(file) == (True, [])
    file = opened(EXCLUSIVE, DISK, mount("ceph"))  # negative control: a mount that is not visible at all is not trusted
    file.key = (1, 5)
    locked, warnings = judge(file)
    assert (locked, len(warnings)) == (True, 1)


def test_the_daemon_never_locks_what_it_finds_on_smb() -> None:
    table = [mount("cifs"), Mount(2, 78, "/srv/ceph", "ceph", "mon:/", "rw"), Mount(3, 79, "/", "ext4", "/dev/a", "rw")]
    tables = MountTables(read=lambda: table)
    assert tables.smb() == {_DEVICE}
    assert [bool(tables.why_other(device)) for device in (_DEVICE, 78, 79)] == [True, True, False]


def test_the_audit_knows_one_server_by_one_name(show: Show) -> None:
    table = [
        Mount(1, 1, "/mnt/pve/a", "nfs4", "nas:/vm", "rw,vers=4.2,addr=10.0.0.5"),
        Mount(2, 2, "/mnt/pve/bb", "nfs4", "10.0.0.5:/vm", "rw,vers=4.2,addr=10.0.0.5"),
        Mount(3, 3, "/mnt/pve/ccc", "nfs4", "other:/vm", "rw,vers=4.2,addr=10.0.0.6"),
        Mount(4, 4, "/mnt/pve/dddd", "nfs4", "[fd00::5]:/vm", "rw,vers=4.2"),
    ]
    show(table)
    under = cluster_view.mount_finder()
    found = [under(f"{mount.point}/images") for mount in table]
    assert [one.source for one in found if one is not None] == ["nas:/vm", "nas:/vm", "other:/vm", "[fd00::5]:/vm"]


# -- what the commands say -------------------------------------------------------------------------------------------


def vm(mode: str = EXCLUSIVE, device: int = _DEVICE, pid: int = 0) -> VmAnswer:
    file = {"path": "/srv/vm/a.raw", "mode": mode, "role": DISK, "guard": "pinned", "ranges": "all", "inode": 5}
    processes = [{"pid": pid, "name": "qemu"}] if pid else []
    return VmAnswer.from_json(
        {
            "name": "web",
            "uuid": "u",
            "hypervisor": "libvirt",
            "state": "running",
            "processes": processes,
            "files": [{**file, "device": device, "real": "/srv/vm/a.raw"}],
        }
    )


def test_a_vm_with_such_a_disk_is_never_shown_as_guarded(monkeypatch: pytest.MonkeyPatch, show: Show) -> None:
    for kind, status in (("ceph", Status.WARNING), ("fuse.bindfs", Status.WARNING), ("ext4", Status.OK)):
        show([mount(kind)])
        monkeypatch.setattr(ask_share, "replaced_now", lambda vm, places: {})
        report = VmReport("web", "u", "libvirt", "", "")
        reports._report_guarded(report, vm(), daemon_down=False, places=Places("/run/x", "", "", ""))
        report.summary = wording.summary(report)
        assert report.status is status
        assert ("not fully guarded" in report.summary) == (status is Status.WARNING)
        assert (f"but /srv/vm is a {kind}" in report.disks[0].text) == (status is Status.WARNING)


@pytest.mark.parametrize("device", [_DEVICE, 1])
def test_a_guarded_vm_with_a_writable_disk_there_is_found_by_device_or_path(show: Show, device: int) -> None:
    table = [mount("ext4", point="/"), mount("fuse.glusterfs")]
    show(table)
    (found,) = other_mounts.of_vm(vm(device=device))
    assert (found.path, found.is_locked) == ("/srv/vm/a.raw", True)
    assert "fuse.glusterfs" in found.why
    assert other_mounts.of_vm(vm(SHARED, device)) == [], "control: nobody writes to it"
    table[1] = mount("nfs4", "rw,vers=4.2")
    assert other_mounts.of_vm(vm(device=device)) == [], "control: NFSv4"


def test_what_its_process_has_open_there_beyond_what_is_locked(tmp_path: Path, show: Show) -> None:
    """SMB is never locked, so the daemon knows nothing of such a disk: claimed, hot-plugged or adopted."""
    disk = tmp_path / "plugged.raw"
    device = tmp_path.stat().st_dev

    def show_as(kind: str) -> None:
        nfs = Mount(1, _DEVICE, "/srv/vm", "nfs4", "nas:/vm", "rw,vers=4.2")
        show([nfs, Mount(mount_id, device, "/srv/smb", kind, "//nas/vm", "rw")])

    with disk.open("wb") as stream:
        mount_id = proc.fdinfo("self", stream.fileno()).mount_id
        show_as("cifs")
        found = {one.path: one for one in other_mounts.of_vm(vm(pid=os.getpid()))}
        assert not found[str(disk)].is_locked
        assert "SMB" in found[str(disk)].why
        assert other_mounts.of_vm(vm(pid=os.getpid()), is_alive=False) == [], "the pid may be somebody else's by now"
        show_as("ext4")
        assert other_mounts.of_vm(vm(pid=os.getpid())) == [], "negative control"
    show_as("cifs")
    with disk.open("rb"):
        assert str(disk) not in {one.path for one in other_mounts.of_vm(vm(pid=os.getpid()))}, "it only reads"


def test_the_metrics_count_such_a_disk_as_what_it_is(show: Show) -> None:
    show([mount("ocfs2")])
    sent: dict[str, Any] = dict(vm().json)
    assert [file["guard"] for file in metrics._with_mounts(sent)["files"]] == ["other-mount"]
    sent["files"] = [{**sent["files"][0], "guard": "lost"}]
    assert metrics._with_mounts(sent)["files"] == sent["files"], "lost is worse"
    show([mount("nfs4", "rw,vers=4.2")])
    assert metrics._with_mounts(dict(vm().json)) == vm().json, "control"


def test_the_doctor_names_the_mount_of_a_path_that_is_not_on_nfs(show: Show) -> None:
    table = [mount("ext4", point="/"), mount("fuse.bindfs", point="/srv/b")]
    show(table)
    places = Places("/run/x", "/run/y", "/etc/x", ".vmguard")
    vm_found, tried, others = examine._subject(examine.Wanted("/srv/b/web.raw"), places, [], [])
    assert (vm_found, tried, [other.point for other in others]) == (None, [], ["/srv/b"])
    with pytest.raises(BadInput, match="is on no NFS mount"):  # control
        examine._subject(examine.Wanted("/srv/c/web.raw"), places, [], [])


def test_a_plan_names_a_writable_disk_there(tmp_path: Path, show: Show) -> None:
    (tmp_path / "a.raw").touch()
    for extra, kind, named in (("", "ceph", 1), ("<readonly/>", "ceph", 0), ("", "ext4", 0)):
        show([mount(kind, point="/")])
        xml = (
            "<domain><name>w</name><uuid>55555555-5555-4555-8555-555555555555</uuid><devices><disk type='file'>"
            f"<driver type='raw'/><source file='{tmp_path}/a.raw'/><target dev='vda'/>{extra}</disk></devices></domain>"
        )
        assert len(start_plan._plan_xml(xml.encode()).unguarded) == named
