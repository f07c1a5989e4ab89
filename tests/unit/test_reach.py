"""How far a share reaches: /dev/shm stands for a share, the folder of the test for this host's own file system."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disk_images import image
from tests.support.open_watch import OpenWatch
from vmguard.adapters.linux import mounts
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.storage.backing_chain import Resolved, resolve
from vmguard.adapters.storage.files import Opener
from vmguard.adapters.storage.reach import Reach
from vmguard.core.locks.plan import BACKING, DATA_FILE, EXCLUSIVE, SHARED
from vmguard.core.sources.domain_xml import Domain, Source
from vmguard.errors import PlanError

_SHM = "/dev/shm"
GUARDED, UNGUARDED = ("nfs4", "rw,vers=4.2"), ("ceph", "rw")


@pytest.fixture
def share() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=_SHM))
    yield folder
    shutil.rmtree(folder)


def reach(kind: tuple[str, str], *trusted: Path, everything: bool = False) -> Reach:
    """The rule where /dev/shm (or everything) is a share of some kind."""

    def table() -> Iterator[Mount]:
        for mount in mounts.mounts():
            if everything or mount.point == _SHM:
                yield Mount(mount.id, mount.device, mount.point, kind[0], mount.source, kind[1])
            else:
                yield mount

    return Reach(map(str, trusted), table)


def start(path: Path, rule: Reach, format: str = "raw") -> Resolved:
    """Open the files of a VM with one disk."""
    domain = Domain("web", "100")
    domain.sources.append(Source("disk vda", "file", str(path), EXCLUSIVE, "disk", format))
    resolved = resolve(domain, Opener(reach=rule))
    resolved.close()
    return resolved


def locked(resolved: Resolved) -> dict[str, str]:
    return {os.path.basename(file.path): file.mode for file in resolved.plan.files}


# -- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GUARDED, UNGUARDED])
def test_a_link_on_a_share_leads_to_no_file_of_this_host(share: Path, tmp_path: Path, kind: tuple[str, str]) -> None:
    target = tmp_path / "shadow"
    target.touch()
    (share / "web.raw").symlink_to(target)
    with OpenWatch(target) as watch:
        with pytest.raises(PlanError, match="is led out of its share") as refused:
            start(share / "web.raw", reach(kind))
        assert watch.opened() == set()
        for words in (f"'{share}/web.raw' on {_SHM} ends at '{target}'", "storage.trusted_folders"):
            assert words in f"{refused.value.message} {refused.value.hint}"
        assert locked(start(share / "web.raw", reach(kind, tmp_path))) == {"web.raw": EXCLUSIVE}  # the admin's word
        assert watch.opened() == {target}
    assert locked(start(share / "web.raw", Reach())) == {"web.raw": EXCLUSIVE}, "control: no share"


def test_a_link_half_way_counts_and_so_does_one_behind_it(share: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/web.raw").touch()
    (share / "folder").symlink_to(tmp_path / "images")
    (tmp_path / "own").symlink_to(share / "folder")
    for path in (share / "folder/web.raw", tmp_path / "own/web.raw"):
        with pytest.raises(PlanError, match="is led out of its share"):
            start(path, reach(GUARDED))


def test_links_that_stay_on_shares_and_those_of_the_admin_go_on_working(share: Path, tmp_path: Path) -> None:
    (share / "real.raw").touch()
    (share / "beside.raw").symlink_to("real.raw")
    (tmp_path / "images").symlink_to(share)
    (tmp_path / "on-own.raw").touch()
    (tmp_path / "from-own.raw").symlink_to("on-own.raw")
    for path in (share / "beside.raw", tmp_path / "images/real.raw", tmp_path / "images/beside.raw"):
        for kind in (GUARDED, UNGUARDED):
            assert list(locked(start(path, reach(kind)))) == [path.name]
    assert list(locked(start(tmp_path / "from-own.raw", reach(GUARDED)))) == ["from-own.raw"]
    (share / "over.raw").symlink_to(tmp_path / "on-own.raw")
    assert list(locked(start(share / "over.raw", reach(GUARDED, everything=True)))) == ["over.raw"], "to another share"
    with pytest.raises(PlanError, match="is led out"):
        start(share / "over.raw", reach(UNGUARDED, everything=True))


# -- headers --------------------------------------------------------------------------------------------------------


def names(where: Path, backing: Path) -> Path:
    """An image in a folder whose header names a backing image."""
    return image(where / "web.qcow2", str(backing))


def test_a_backing_image_on_this_hosts_own_file_system_is_read_and_not_locked(share: Path, tmp_path: Path) -> None:
    base = image(tmp_path / "template.qcow2")
    found = start(names(share, base), reach(GUARDED), "qcow2")
    assert locked(found) == {"web.qcow2": EXCLUSIVE}
    assert [(item.kind, str(base) in item.reason) for item in found.plan.unguarded] == [("local", True)]
    assert locked(start(names(share, base), reach(GUARDED, tmp_path), "qcow2"))["template.qcow2"] == SHARED


def test_of_a_local_image_that_of_its_own_folder_is_locked_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "images").mkdir()
    shadow, base = image(tmp_path / "etc/shadow"), image(tmp_path / "images/base")
    assert set(locked(start(names(tmp_path / "images", shadow), Reach(), "qcow2"))) == {"web.qcow2"}
    assert set(locked(start(names(tmp_path / "images", base), Reach(), "qcow2"))) == {"web.qcow2", "base"}
    (tmp_path / "images/inside").symlink_to(shadow)  # whatever it is called
    found = start(names(tmp_path / "images", tmp_path / "images/inside"), Reach(), "qcow2")
    assert set(locked(found)) == {"web.qcow2"}


def test_a_linked_clone_on_one_storage_of_proxmox_is_locked_as_ever(tmp_path: Path) -> None:
    for vmid in ("100", "101"):
        (tmp_path / "images" / vmid).mkdir(parents=True)
    base = image(tmp_path / "images/100/base.qcow2")
    clone = image(tmp_path / "images/101/clone.qcow2", "../100/base.qcow2")
    for home, wanted in ((str(tmp_path), {"clone.qcow2", "base.qcow2"}), ("", {"clone.qcow2"})):
        domain = Domain("web", "101")
        source = Source("scsi0", "file", str(clone), EXCLUSIVE, "disk", "qcow2")
        source.home = home
        domain.sources.append(source)
        resolved = resolve(domain, Opener())
        resolved.close()
        assert set(locked(resolved)) == wanted
    assert base.exists()


def test_what_the_configuration_names_too_is_locked(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    base = image(tmp_path / "base.iso")
    domain = Domain("web", "100")
    web = names(tmp_path / "images", base)
    domain.sources.append(Source("disk vda", "file", str(web), EXCLUSIVE, "disk", "qcow2"))
    domain.sources.append(Source("cdrom sda", "file", str(base), SHARED, "disk"))
    for sources in (domain.sources, domain.sources[::-1]):
        domain.sources = sources
        resolved = resolve(domain, Opener())
        resolved.close()
        assert set(locked(resolved)) == {"web.qcow2", "base.iso"}


def test_a_linked_clone_across_two_guarded_shares_is_locked_as_ever(share: Path, tmp_path: Path) -> None:
    base = image(tmp_path / "base.qcow2")
    rule = reach(GUARDED, everything=True)
    assert locked(start(names(share, base), rule, "qcow2")) == {"web.qcow2": EXCLUSIVE, "base.qcow2": SHARED}


def test_a_backing_image_on_a_third_kind_of_mount_needs_the_admins_word(share: Path, tmp_path: Path) -> None:
    base = image(share / "base.qcow2")
    web = names(tmp_path, base)
    with pytest.raises(PlanError, match="in its header, on /dev/shm") as refused:
        start(web, reach(UNGUARDED), "qcow2")
    assert f"'{web}' names '{base}'" in refused.value.message
    assert set(locked(start(web, reach(UNGUARDED, share), "qcow2"))) == {"web.qcow2", "base.qcow2"}
    (share / "one").mkdir()
    assert len(locked(start(names(share / "one", base), reach(UNGUARDED), "qcow2"))) == 2, "control: one mount"


class Names:
    """The rule alone, for one image and one file that its header names."""

    def __init__(self, rule: Reach, at: Path) -> None:
        self.rule = rule
        self.image = Opener().open(str(image(at / "web.qcow2")), SHARED, "disk vda")

    def may_lock(self, path: Path, mode: str) -> bool | str:
        from vmguard.adapters.storage.path_walk import find

        path.touch()
        found = find(str(path))
        try:
            return self.rule.may_lock(found, self.image, [os.path.dirname(self.image.real)], mode, "disk vda")
        except PlanError as problem:
            return problem.hint
        finally:
            found.close()


@pytest.mark.parametrize(
    ("place", "file", "role", "wanted"),
    [
        ("share", "share/data", DATA_FILE, True),
        ("share", "own/data", DATA_FILE, "refused"),
        ("share", "own/base", BACKING, False),
        ("own/images", "own/images/data", DATA_FILE, True),
        ("own/images", "own/etc/.pwd.lock", DATA_FILE, "refused"),
        ("own/images", "own/etc/shadow", BACKING, False),
        ("own/images", "own/images-of-others/data", DATA_FILE, "refused"),
        ("own/images", "share/data", DATA_FILE, True),
    ],
)
def test_what_a_header_may_name(
    share: Path, tmp_path: Path, place: str, file: str, role: str, wanted: bool | str
) -> None:
    def at(name: str) -> Path:
        path = share / name[6:] if name.startswith("share") else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    at(f"{place}/x")
    names = Names(reach(GUARDED), at(place))
    answer = names.may_lock(at(file), SHARED if role == BACKING else EXCLUSIVE)
    names.image.close()
    assert answer is wanted or ("trusted_folders" in str(answer) and wanted == "refused")


# -- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
def test_a_device_on_a_share_is_refused_and_one_of_this_host_is_left_alone(share: Path, tmp_path: Path) -> None:
    for folder in (share, tmp_path):
        os.mknod(folder / "sdz", 0o600 | 0o060000, os.makedev(7, 250))
    with OpenWatch(share / "sdz", tmp_path / "sdz") as watch:
        with pytest.raises(PlanError, match="is a block device on a share"):
            start(share / "sdz", reach(GUARDED))
        assert [item.kind for item in start(tmp_path / "sdz", reach(GUARDED)).plan.unguarded] == ["block"]
        assert watch.opened() == set()
