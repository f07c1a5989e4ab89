"""Disks with the heartbeat VM on them (heartbeat.s), and what such a VM has written.

host.put("/srv/vm/vm1.qcow2", heartbeat_disk("qcow2"))
counter(server.get("/srv/vm/vm1.qcow2"))
"""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("heartbeat.s")
DISK_SIZE: Final = 1 << 20  # bytes
SECTOR: Final = 512
QCOW2_MAGIC: Final = b"QFI\xfb"
QCOW2_OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00


@functools.cache
def heartbeat_disk(format: str = "qcow2") -> bytes:
    """Return a disk image, raw or qcow2, that boots into the heartbeat; 1 MiB to the VM."""
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder)
        subprocess.run(["as", "--32", str(SOURCE), "-o", "boot.o"], cwd=build, check=True)
        link = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "boot.o", "-o", "boot.bin"]
        subprocess.run(link, cwd=build, check=True)
        boot = (build / "boot.bin").read_bytes()
        assert len(boot) == SECTOR
        raw = build / "disk.raw"
        raw.write_bytes(boot.ljust(DISK_SIZE, b"\0"))
        if format == "raw":
            return raw.read_bytes()
        convert = ["qemu-img", "convert", "-f", "raw", "-O", format, "disk.raw", "disk.out"]
        subprocess.run(convert, cwd=build, check=True)
        return (build / "disk.out").read_bytes()


def counter(image: bytes) -> int:
    """Return the last beat that reached an image (raw, or qcow2 without a backing file); 0 if none."""
    if not image.startswith(QCOW2_MAGIC):
        return _number(image, SECTOR)
    (l1_table,) = struct.unpack_from(">Q", image, 40)
    (l2_table,) = struct.unpack_from(">Q", image, l1_table)
    (cluster,) = struct.unpack_from(">Q", image, l2_table & QCOW2_OFFSET_MASK)
    return _number(image, (cluster & QCOW2_OFFSET_MASK) + SECTOR)


def _number(image: bytes, offset: int) -> int:
    (number,) = struct.unpack_from("<I", image, offset)
    assert isinstance(number, int)
    return number
