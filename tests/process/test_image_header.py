"""Headers of images that qemu-img writes, in every format that it knows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vmguard.core.sources.image_header import parse_header, probe

FORMATS = ["qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels", "raw"]


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., bytes]:
    def run(kind: str, *options: str) -> bytes:
        path = os.path.join(tmp_path, f"image.{kind}")
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, path, "1M"], check=True)
        with open(path, "rb") as file:
            return file.read(4096)

    return run


@pytest.mark.parametrize("kind", FORMATS)
def test_the_magic_of_what_qemu_writes(kind: str, create: Callable[..., bytes]) -> None:
    data = create(kind)
    assert probe(data) == kind
    header = parse_header(data, kind)
    assert (header.leans_on_others, header.note) == (False, "")


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_vmdk_of_several_files_is_not_known_in_full(subformat: str, create: Callable[..., bytes]) -> None:
    assert "VMDK" in parse_header(create("vmdk", "-o", f"subformat={subformat}"), None).note
