"""A contract with the real thing: the chain reader finds exactly the files that qemu-img finds, image by image."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.qemu_img import create, overlay
from vmguard.adapters.storage.backing_chain import plan_of

UUID = "6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a"


def domain(path: Path, format: str) -> bytes:
    disk = f"<disk type='file'><driver type='{format}'/><source file='{path}'/><target dev='vda'/></disk>"
    return f"<domain><name>web1</name><uuid>{UUID}</uuid><devices>{disk}</devices></domain>".encode()


def seen_by_qemu(path: Path) -> list[str]:
    """Every file of a chain, data files too, as qemu-img finds them."""
    command = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", str(path)]
    images = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    found = []
    for image in images:
        found.append(image["filename"])
        extra = image.get("format-specific", {}).get("data", {})
        if isinstance(extra, dict) and "data-file" in extra:
            found.append(extra["data-file"])
    return found


def json_of(options: dict[str, str]) -> str:
    return "json:" + json.dumps(options)


def plain(tmp_path: Path) -> Path:
    return create(tmp_path / "a")


def version_2(tmp_path: Path) -> Path:
    create(tmp_path / "base", "-o", "compat=0.10")
    return create(tmp_path / "a", "-o", f"compat=0.10,backing_file={tmp_path}/base,backing_fmt=qcow2", size=None)


def small_clusters(tmp_path: Path) -> Path:
    create(tmp_path / "base", "-o", "cluster_size=512")
    return create(tmp_path / "a", "-o", f"cluster_size=512,backing_file={tmp_path}/base,backing_fmt=qcow2", size=None)


def large_clusters(tmp_path: Path) -> Path:
    create(tmp_path / "base", "-o", "cluster_size=2M")
    return create(tmp_path / "a", "-o", f"cluster_size=2M,backing_file={tmp_path}/base,backing_fmt=qcow2", size=None)


def relative(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    create(tmp_path / "base")
    overlay(tmp_path / "sub" / "middle", "../base")
    return overlay(tmp_path / "a", "sub/middle")


def relative_behind_a_symlink(tmp_path: Path) -> Path:
    """The same name exists beside the image and beside the link to it: QEMU takes the link's."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        create(tmp_path / name / "base")
    overlay(tmp_path / "one" / "a", "base")
    (tmp_path / "two" / "link").symlink_to("../one/a")
    return tmp_path / "two" / "link"


def on_raw(tmp_path: Path) -> Path:
    create(tmp_path / "base", format="raw")
    return overlay(tmp_path / "a", f"{tmp_path}/base", "raw")


def with_data_file(tmp_path: Path) -> Path:
    return create(tmp_path / "a", "-o", f"data_file={tmp_path}/data,data_file_raw=on")


def on_data_file(tmp_path: Path) -> Path:
    create(tmp_path / "base", "-o", f"data_file={tmp_path}/data")
    return overlay(tmp_path / "a", f"{tmp_path}/base")


def json_name(tmp_path: Path) -> Path:
    create(tmp_path / "base")
    tree = {"driver": "qcow2", "file": {"driver": "file", "filename": f"{tmp_path}/base"}}
    return overlay(tmp_path / "a", "json:" + json.dumps(tree))


def dotted_name(tmp_path: Path) -> Path:
    create(tmp_path / "base")
    return overlay(tmp_path / "a", json_of({"driver": "qcow2", "file.filename": f"{tmp_path}/base"}))


def single_quotes(tmp_path: Path) -> Path:
    create(tmp_path / "it's")
    name = json_of({"driver": "qcow2", "file.filename": f"{tmp_path}/it?s"})
    return overlay(tmp_path / "a", name.replace('"', "'").replace("?", "\\'"))


def the_header_says_raw_the_name_qcow2(tmp_path: Path) -> Path:
    create(tmp_path / "never opened", format="raw")
    overlay(tmp_path / "base", f"{tmp_path}/never opened", "raw")
    return overlay(tmp_path / "a", json_of({"driver": "qcow2", "file.filename": f"{tmp_path}/base"}), "raw")


def the_header_says_qcow2_the_name_raw(tmp_path: Path) -> Path:
    create(tmp_path / "below", format="raw")
    overlay(tmp_path / "base", f"{tmp_path}/below", "raw")
    return overlay(tmp_path / "a", json_of({"driver": "raw", "file.filename": f"{tmp_path}/base"}))


def long_extensions(tmp_path: Path) -> Path:
    """A header whose end is known after the third read alone."""
    create(tmp_path / "base")
    path = overlay(tmp_path / "a", f"{tmp_path}/base")
    image = bytearray(path.read_bytes())
    start, place, length = (int.from_bytes(image[a:b], "big") for a, b in ((100, 104), (8, 16), (16, 20)))
    name = bytes(image[place : place + length])
    unknown = b"".join((0x12345678).to_bytes(4, "big") + (5000).to_bytes(4, "big") + bytes(5000) for _ in range(4))
    head = unknown + bytes(image[start:place])
    image[start : start + len(head)] = head
    image[8:16] = (60_000).to_bytes(8, "big")
    image[60_000 : 60_000 + len(name)] = name
    path.write_bytes(image)
    return path


def file_name(tmp_path: Path) -> Path:
    create(tmp_path / "base")
    return overlay(tmp_path / "a", f"file:{tmp_path}/base")


def old_qcow(tmp_path: Path) -> Path:
    create(tmp_path / "base", format="raw")
    return create(tmp_path / "a", "-u", "-b", f"{tmp_path}/base", "-F", "raw", format="qcow")


def old_qed(tmp_path: Path) -> Path:
    create(tmp_path / "base", format="raw")
    return overlay(tmp_path / "a", f"{tmp_path}/base", "raw", format="qed")


def mixed(tmp_path: Path) -> Path:
    create(tmp_path / "base", format="vdi")
    overlay(tmp_path / "middle", f"{tmp_path}/base", "vdi")
    return overlay(tmp_path / "a", f"{tmp_path}/middle")


def with_snapshots_and_bitmaps(tmp_path: Path) -> Path:
    base = create(tmp_path / "base")
    subprocess.run(["qemu-img", "snapshot", "-c", "one", str(base)], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", str(base), "dirty"], check=True)
    return overlay(tmp_path / "a", f"{tmp_path}/base")


def extended(tmp_path: Path) -> Path:
    return create(tmp_path / "a", "-o", "extended_l2=on,compression_type=zstd,lazy_refcounts=on")


def long_name(tmp_path: Path) -> Path:
    deep = tmp_path / ("d" * 240)
    deep.mkdir()
    (deep / ("e" * 240)).mkdir()
    base = create(deep / ("e" * 240) / "base")
    return overlay(tmp_path / "a", str(base))


IMAGES = [
    plain, version_2, small_clusters, large_clusters, relative, relative_behind_a_symlink,
    on_raw, with_data_file, on_data_file, json_name, dotted_name, single_quotes,
    the_header_says_raw_the_name_qcow2, the_header_says_qcow2_the_name_raw, long_extensions,
    file_name, old_qcow, old_qed, mixed, with_snapshots_and_bitmaps, extended, long_name,
]  # fmt: skip


@pytest.mark.parametrize("build", IMAGES, ids=lambda build: build.__name__)
def test_the_reader_sees_what_qemu_sees(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    """File by file; compared as inodes, because one name may be spelled in several ways."""
    top = build(tmp_path)
    command = ["qemu-img", "info", "-U", "--output=json", str(top)]
    format = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["format"]
    ours = plan_of(domain(top, format))
    theirs = [path.removeprefix("file:") for path in seen_by_qemu(top)]
    assert sorted(os.stat(file.path).st_ino for file in ours.files) == sorted({os.stat(path).st_ino for path in theirs})
    assert ours.unguarded == []


def opens(path: Path) -> bool:
    """Whether QEMU can open an image with its whole chain."""
    return subprocess.run(["qemu-img", "map", "-U", str(path)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("key", ["backing.file.filename", "data-file.filename"])
def test_a_chain_in_a_name_is_opened_by_qemu_and_found_here(tmp_path: Path, key: str) -> None:
    kept = create(tmp_path / "kept", format="raw")
    create(tmp_path / "base")
    if key == "data-file.filename":
        create(tmp_path / "base", "-o", f"data_file={tmp_path}/gone")
        (tmp_path / "gone").rename(tmp_path / "kept")
    top = overlay(tmp_path / "a", json_of({"driver": "qcow2", "file.filename": f"{tmp_path}/base", key: str(kept)}))
    assert opens(top)
    assert {os.path.basename(file.path) for file in plan_of(domain(top, "qcow2")).files} == {"a", "base", "kept"}
    kept.unlink()
    assert not opens(top)  # negative control: QEMU does read it


def test_a_name_that_is_no_utf8_is_the_file_that_qemu_opens(tmp_path: Path) -> None:
    base = os.fsencode(tmp_path) + b"/caf\xe9"
    create(tmp_path / "plain")
    os.rename(tmp_path / "plain", base)
    top = create(tmp_path / "a", "-u", "-F", "qcow2", "-b", os.fsdecode(base))
    assert opens(top)
    assert sorted(os.fsencode(file.path) for file in plan_of(domain(top, "qcow2")).files) == [os.fsencode(top), base]
    os.unlink(base)
    assert not opens(top)
