"""Pool volumes: where libvirt's own files say a volume lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.errors import PlanError


def pool(kind: str, name: str = "images", target: str = "/srv/images") -> str:
    return f"<pool type='{kind}'><name>{name}</name><source/><target><path>{target}</path></target></pool>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "etc").mkdir()
    return tmp_path / "run"


@pytest.fixture
def pools(run: Path) -> Pools:
    return Pools((str(run), str(run.parent / "etc")))


@pytest.mark.parametrize("kind", ["dir", "fs", "netfs", "vstorage"])
def test_a_volume_of_a_directory_is_a_file(kind: str, run: Path, pools: Pools) -> None:
    (run / "images.xml").write_text(pool(kind))
    assert pools.locate("images", "a b.qcow2", "disk vda") == ("file", "/srv/images/a b.qcow2")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logical", "block"),
        ("disk", "block"),
        ("iscsi", "block"),
        ("scsi", "block"),
        ("mpath", "block"),
        ("zfs", "block"),
        ("rbd", "network"),
        ("gluster", "network"),
        ("iscsi-direct", "network"),
        ("new", "other"),
    ],
)
def test_a_volume_that_is_no_file_says_why(kind: str, expected: str, run: Path, pools: Pools) -> None:
    (run / "images.xml").write_text(pool(kind))
    found, reason = pools.locate("images", "a", "disk vda")
    assert found == expected
    assert f"volume 'a' of the {kind} pool 'images'" in reason


def test_what_runs_counts_more_than_what_is_defined(run: Path, pools: Pools) -> None:
    (run / "images.xml").write_text(f"<poolstate>{pool('dir', target='/now')}</poolstate>")
    (run.parent / "etc" / "images.xml").write_text(pool("dir", target="/later"))
    assert pools.locate("images", "a", "disk vda") == ("file", "/now/a")


def test_a_pool_that_is_only_defined(run: Path, pools: Pools) -> None:
    (run.parent / "etc" / "images.xml").write_text(pool("dir"))
    assert pools.locate("images", "a", "disk vda") == ("file", "/srv/images/a")


def test_a_pool_is_read_once(run: Path, pools: Pools) -> None:
    (run / "images.xml").write_text(pool("dir"))
    pools.locate("images", "a", "disk vda")
    (run / "images.xml").unlink()
    assert pools.locate("images", "b", "disk vdb") == ("file", "/srv/images/b")


@pytest.mark.parametrize("name", ["a&b", "with space", "-x", "per%20cent", "ünï", "quo'te"])
def test_names_are_taken_as_they_are(name: str, run: Path, pools: Pools) -> None:
    (run / f"{name}.xml").write_text(pool("dir", name.replace("&", "&amp;")))
    assert pools.locate(name, name, "disk vda") == ("file", f"/srv/images/{name}")


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "a/b", "/etc/passwd", "a\0b"])
def test_a_name_stays_one_name(name: str, run: Path, pools: Pools) -> None:
    (run / "images.xml").write_text(pool("dir"))
    with pytest.raises(PlanError, match=r"disk vda: .* is not the name of a storage pool"):
        pools.locate(name, "a", "disk vda")
    with pytest.raises(PlanError, match=r"disk vda: .* is not the name of a storage volume"):
        pools.locate("images", name, "disk vda")


BROKEN = {
    "not well formed": ("<pool><name>", "not well formed"),
    "empty": ("", "is empty"),
    "not a pool": ("<network/>", "not a pool XML"),
    "another pool": (pool("dir", "other"), "describes pool 'other', not pool 'images'"),
    "no name": ("<pool type='dir'/>", "describes no pool"),
    "no target": ("<pool type='dir'><name>images</name></pool>", "no target directory"),
    "a relative target": (pool("dir", target="images"), "no target directory"),
    "an entity bomb": ("<!DOCTYPE x [<!ENTITY a 'aaaa'>]><pool>&a;</pool>", "document type"),
    "too large": ("<pool>" + " " * (2 << 20) + "</pool>", "larger than"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_description_is_named(what: str, run: Path, pools: Pools) -> None:
    content, words = BROKEN[what]
    (run / "images.xml").write_text(content)
    with pytest.raises(PlanError) as caught:
        pools.locate("images", "a", "disk vda")
    assert words in caught.value.message
    assert "disk vda: " in caught.value.message


def test_an_unknown_pool_is_named_with_what_to_do(pools: Pools) -> None:
    with pytest.raises(PlanError, match="storage pool 'images' is not known") as caught:
        pools.locate("images", "a", "disk vda")
    assert "virsh pool-info images" in caught.value.hint


def test_a_description_that_is_a_directory(run: Path, pools: Pools) -> None:
    (run / "images.xml").mkdir()
    with pytest.raises(PlanError, match="Is a directory"):
        pools.locate("images", "a", "disk vda")
