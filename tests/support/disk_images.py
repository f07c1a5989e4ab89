"""Disk images written by hand, without qemu-img."""

from __future__ import annotations

import struct
from pathlib import Path


def image(path: Path, backing: str = "", format: str = "qcow2") -> Path:
    """Write a minimal qcow2 header by hand; qemu-img would refuse most of what the tests build with it."""
    layer = struct.pack(">II", 0xE2792ACA, len(format)) + format.encode().ljust(8, b"\0") if backing else b""
    name = backing.encode()
    place = 104 + len(layer) + 8 if backing else 0
    head = struct.pack(">4sIQII", b"QFI\xfb", 3, place, len(name), 16).ljust(72, b"\0")
    head += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    path.write_bytes((head + layer + bytes(8) + name).ljust(4096, b"\0"))
    return path
