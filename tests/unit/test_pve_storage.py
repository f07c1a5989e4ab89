"""storage.cfg as Proxmox reads it. Each file of data/pve/storages says in its own head which storages there are:

ID TYPE PATH-or-- [mount=POINT] [shared] [disabled] [nodes=A,B] [images=FOLDER]   and one "problem" for each complaint
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_pve_config import head
from vmguard.core.sources.pve_storage import FILE, Storage, parse_storages, parse_volume
from vmguard.errors import BadInput, PlanError, VmguardError

DATA = Path(__file__).parent / "data/pve"
CASES = sorted((DATA / "storages").glob("*.cfg"))


def described(storage: Storage, with_images: bool) -> str:
    words = [storage.id, storage.type, storage.path or "-"]
    words += [f"mount={storage.mount_point}"] if storage.mount_point else []
    words += [f"images={storage.folder('images')}"] if with_images else []
    words += ["shared"] if storage.is_shared else []
    words += ["disabled"] if storage.is_disabled else []
    words += [f"nodes={','.join(storage.nodes)}"] if storage.nodes else []
    return " ".join(words)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_storages_are_those_its_head_names(path: Path) -> None:
    expected = head(path)
    with_images = {line.split()[0] for line in expected if "images=" in line}
    storages = parse_storages(path.read_bytes())
    found = [described(storage, storage.id in with_images) for storage in storages.by_id.values()]
    assert sorted(found) == sorted(line for line in expected if line != "problem")
    assert len(storages.problems) == expected.count("problem"), storages.problems


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 15


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("100/vm-100-disk-0.qcow2", ("images", "100", "vm-100-disk-0.qcow2", "qcow2")),
        ("100/any.name.at_all.raw", ("images", "100", "any.name.at_all.raw", "raw")),
        ("100/base-100-disk-0.raw/101/vm-101-disk-0.qcow2", ("images", "101", "vm-101-disk-0.qcow2", "qcow2")),
        ("iso/debian 12.iso", ("iso", "", "debian 12.iso", "raw")),
        ("snippets/hook.pl", ("snippets", "", "hook.pl", "raw")),
    ],
)
def test_names_of_volumes(name: str, expected: tuple[str, str, str, str]) -> None:
    volume = parse_volume(name, "scsi0")
    assert (volume.kind, volume.vmid, volume.name, volume.format) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "100", "100/", "/100/a.raw", "100/a", "100/a.iso", "100/a b.raw", "a/b.raw", "100/.raw", "¹/a.raw"),
        *("iso/", "iso/..", "iso/a/b", "images/a.raw", "100/x.raw/101", "100/a.raw/x/b.raw", "1/2/3/4.raw"),
    ],
)
def test_what_is_no_volume(name: str) -> None:
    with pytest.raises(PlanError):
        parse_volume(name, "scsi0")


@pytest.mark.parametrize("data", [b"dir: a\0\n", b"#" * (1 << 20) + b"x"])
def test_what_is_no_configuration(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_storages(data)


_PARTS = st.sampled_from(["dir: aa", "nfs: b", "\tpath /x", "\tis_mountpoint", "\tdisable", "", " ", "0", "#", "x:"])


@given(st.lists(_PARTS | st.text(max_size=10), max_size=12), st.text(max_size=30))
def test_whatever_stands_there_only_our_own_errors_come_out(lines: list[str], volume: str) -> None:
    try:
        storages = parse_storages("\n".join(lines).encode(errors="surrogatepass"))
    except VmguardError:
        return
    assert storages.by_id["local"].path == "/var/lib/vz"
    for storage in storages.by_id:
        try:
            kind, place, _ = storages.locate(f"{storage}:{volume}", "node1", "scsi0")
        except VmguardError:
            continue
        assert kind != FILE or place.startswith("/")
