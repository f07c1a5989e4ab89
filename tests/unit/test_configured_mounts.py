"""A share that is configured but absent while a disk lies below its mount point, by the text of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmguard.adapters.linux.configured_mounts import ConfiguredShare, absent_below, resolve_points, shares
from vmguard.adapters.linux.mounts import Mount
from vmguard.errors import PlanError
from vmguard.hook import absent_shares

ROOT = Mount(1, 5, "/", "ext4", "/dev/vda1", "rw")


def mounted(point: str, kind: str = "nfs4") -> Mount:
    return Mount(2, 6, point, kind, "nas:/vm", "rw,vers=4.2")


def configured(
    tmp_path: Path, fstab: str = "", units: dict[str, str] | None = None, pools: dict[str, str] | None = None
) -> list[ConfiguredShare]:
    (tmp_path / "fstab").write_text(fstab)
    for name, text in {**(units or {}), **(pools or {})}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    folders = [str(tmp_path / name) for name in ("etc", "run", "usr")]
    return shares(str(tmp_path / "fstab"), folders, [str(tmp_path / "pools")])


@pytest.mark.parametrize(
    ("line", "point"),
    [
        ("nas:/vm /srv/vm nfs4 vers=4.2,hard 0 0", "/srv/vm"),
        ("nas:/vm\t/srv/vm/\tnfs\tnoauto,x-systemd.automount", "/srv/vm"),
        ("[fd00::5]:/vm /srv/vm nfs defaults 0 0", "/srv/vm"),
        (r"nas:/vm /srv/v\040m\011x nfs4 defaults", "/srv/v m\tx"),
        ("//nas/vm /srv/vm cifs credentials=/etc/c 0 0", "/srv/vm"),
        ("mon1:/ /srv/vm ceph name=vm", "/srv/vm"),
        ("nas:gv0 /srv/vm glusterfs defaults,_netdev", "/srv/vm"),
        ("me@nas:/vm /srv/vm fuse.sshfs defaults", "/srv/vm"),
        ("nas:/vm /srv/vm auto defaults", "/srv/vm"),
        ("/dev/vg/shared /srv/vm gfs2 defaults", "/srv/vm"),
        ("nas:/vm /mnt/nas nfs4\n/mnt/nas/images /srv/vm none bind 0 0", "/srv/vm"),
        ("/mnt/a/b /srv/vm none bind\n/mnt/nas/images /mnt/a none rbind\nnas:/vm /mnt/nas nfs4", "/srv/vm"),
        ("nas:/vm /mnt/nas nfs4\noverlay /srv/vm overlay lowerdir=/l,upperdir=/mnt/nas/up,workdir=/w", "/srv/vm"),
        ("nas:/vm /mnt/n\\040s nfs4\n/mnt/n\\040s/x /srv/vm ecryptfs defaults", "/srv/vm"),
        ("nas:/vm /srv/vm nfs4,nfs defaults", "/srv/vm"),
        ("nas:/vm /srv/v\u00a0m\u2028x nfs4 defaults", "/srv/v\u00a0m\u2028x"),
        ("nas:/vm /srv/vm nfs4 defaults\r", "/srv/vm"),
    ],
)
def test_a_share_of_fstab_that_is_not_mounted(tmp_path: Path, line: str, point: str) -> None:
    found = configured(tmp_path, f"# a comment\n\n{line}\n/dev/vda1 / ext4 defaults\n")
    absent = absent_below(f"{point}/sub/web.raw", found, [ROOT])
    assert absent is not None
    assert (absent.point, absent.file) == (point, str(tmp_path / "fstab"))
    assert absent_below(f"{point}/sub/web.raw", found, [ROOT, mounted(point)]) is None, "control: it is mounted"
    assert absent_below(f"{point}x/web.raw", found, [ROOT]) is None, "control: it lies beside the mount point"


@pytest.mark.parametrize(
    "line",
    [
        "/dev/vdb1 /srv/vm ext4 defaults",
        "UUID=0-0 /srv/vm xfs noauto",
        "LABEL=vm /srv/vm auto defaults",
        "tmpfs /srv/vm tmpfs defaults",
        "/home/vm /srv/vm none bind",
        "nas:/vm none swap sw",
        "#nas:/vm /srv/vm nfs4 defaults",
        "nas:/vm /srv/vm",
        "overlay /srv/vm overlay upperdir=/u",
        "nas:/vm /mnt/nas nfs4\noverlay /srv/vm overlay lowerdir=/mnt/nas/l,upperdir=/u",
        "/dev/vdb1 /srv/vm ext4,xfs defaults",
        "/a /srv/vm none bind\n/srv/vm /a none bind",
    ],
)
def test_control_what_is_no_share_is_nobodys_business(tmp_path: Path, line: str) -> None:
    assert absent_below("/srv/vm/web.raw", configured(tmp_path, line), [ROOT]) is None


def test_a_mount_point_that_waits_for_its_first_user_is_no_bare_folder(tmp_path: Path) -> None:
    found = configured(tmp_path, "nas:/vm /srv/vm nfs4 noauto,x-systemd.automount")
    assert absent_below("/srv/vm/web.raw", found, [ROOT, mounted("/srv/vm", "autofs")]) is None
    assert absent_below("/srv/vm/local/web.raw", found, [ROOT, mounted("/srv/vm/local", "ext4")]) is None
    assert absent_below("/srv/vm/local/web.raw", found, [ROOT, mounted("/srv", "ext4")]) is not None


_MOUNT = (
    "[Unit]\nDescription=Where=/no\n[Mount]\n; Where=/no\nWhat=nas:/vm\nWhere = /srv/vm\n{type}[Install]\nWhere=/no\n"
)


@pytest.mark.parametrize("line", ["Type=nfs4\n", "", "Type=nfs\nOptions=vers=4.2,\\\n  hard\n"])
def test_a_mount_unit(tmp_path: Path, line: str) -> None:
    automount = {"etc/srv-vm.automount": "[Automount]\nWhere=/srv/vm\n"}
    found = configured(tmp_path, units={"etc/srv-vm.mount": _MOUNT.format(type=line), **automount})
    absent = absent_below("/srv/vm/web.raw", found, [ROOT])
    assert absent is not None
    assert absent.file == str(tmp_path / "etc/srv-vm.mount")


@pytest.mark.parametrize(
    ("name", "point"),
    [("srv-vm", "/srv/vm"), (r"srv-v\x2dm", "/srv/v-m"), (r"srv-\xc3\xbc", "/srv/\u00fc"), (r"srv-\xzz", "")],
)
def test_a_mount_unit_that_is_only_named_after_its_mount_point(tmp_path: Path, name: str, point: str) -> None:
    found = configured(tmp_path, units={f"etc/{name}.mount": "[Mount]\nWhat=nas:/vm\nType=nfs4\n"})
    assert [share.point for share in found] == ([point] if point else [])


def test_of_two_units_of_one_name_the_first_counts_and_a_masked_one_is_none(tmp_path: Path) -> None:
    units = {"etc/srv-vm.mount": "", "usr/srv-vm.mount": _MOUNT.format(type="Type=nfs4\n")}
    assert configured(tmp_path, units=units) == []
    local = {"etc/srv-vm.mount": _MOUNT.format(type="Type=ext4\n").replace("nas:/vm", "/dev/vdb1")}
    assert configured(tmp_path, units={**units, **local}) == []


_POOL = "<pool type='{kind}'><name>nas</name><source/><target><path>/srv/vm</path></target></pool>"


def test_a_pool_that_libvirt_mounts(tmp_path: Path) -> None:
    found = configured(tmp_path, pools={"pools/nas.xml": _POOL.format(kind="netfs"), "pools/x.xml": "<pool netfs"})
    absent = absent_below("/srv/vm/web.raw", found, [ROOT])
    assert absent is not None
    assert (absent.source, absent.is_pool) == ("netfs pool nas", True)
    assert configured(tmp_path, pools={"pools/nas.xml": _POOL.format(kind="dir").replace("nas<", "netfs<")}) == []


def test_a_mount_point_behind_a_symbolic_link_is_known_by_its_real_name(tmp_path: Path) -> None:
    (tmp_path / "data/vm").mkdir(parents=True)
    (tmp_path / "srv").symlink_to("data")
    (tmp_path / "images").symlink_to("srv/vm")
    for point in ("srv/vm", "images"):
        for table, is_absent in (([ROOT], True), ([ROOT, mounted(f"{tmp_path}/data/vm")], False)):
            found = configured(tmp_path, f"nas:/vm {tmp_path}/{point} nfs4")
            resolve_points(found, table)
            assert (absent_below(f"{tmp_path}/data/vm/web.raw", found, table) is not None) == is_absent


def test_a_start_waits_for_the_share_and_refuses_when_it_does_not_come(tmp_path: Path) -> None:
    found = configured(tmp_path, "nas:/vm /srv/vm nfs4 defaults")
    tables = [[ROOT], [ROOT], [ROOT, mounted("/srv/vm")]]

    def look(paths: list[str]) -> tuple[str, str]:
        return absent_shares.explain(paths, found, tables.pop(0) if len(tables) > 1 else tables[0])

    absent_shares.wait("web", ["/srv/vm/web.raw"], 5.0, print, look)
    assert len(tables) == 1
    tables[:] = [[ROOT]]
    with pytest.raises(PlanError, match=r"lies below /srv/vm, where nas:/vm is not mounted \(.*fstab\)") as refused:
        absent_shares.wait("web", ["/srv/vm/web.raw"], 0.0, print, look)
    assert refused.value.hint.startswith("mount /srv/vm;")
    with pytest.raises(PlanError, match="lies below /srv/vm"):
        absent_shares.refuse(["/var/x", "/srv/vm/base.raw"], look)


def test_a_share_that_is_to_be_mounted_on_a_folder_of_another_one(tmp_path: Path) -> None:
    """The folder lies on NFS, and is bare all the same. Control: nothing is to be mounted there, or it is mounted."""
    outer, inner = "nas:/ /srv nfs4 defaults\n", "vault:/vm /srv/vm nfs4 defaults\n"
    for fstab, table, bare in (
        (outer + inner, [ROOT, mounted("/srv")], True),
        (outer, [ROOT, mounted("/srv")], False),
        (outer + inner, [ROOT, mounted("/srv"), mounted("/srv/vm")], False),
    ):
        found = configured(tmp_path, fstab)
        assert absent_shares.is_inside_another(["/srv/other.raw", "/srv/vm/web.raw"], table, found) is bare
        assert absent_shares.is_inside_another(["/srv/other.raw"], table, found) is False
        assert bool(absent_shares.explain(["/srv/vm/web.raw"], found, table)[0]) is bare
