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


def domain_xml(path: object, format: str = "qcow2") -> bytes:
    """Return the XML of a domain with one disk."""
    return (
        "<domain><name>web1</name><uuid>6f8b1c9e-0b1d-4b0a-9f0e-2a6f0d1c2b3a</uuid><devices><disk type='file'>"
        f"<driver type='{format}'/><source file='{path}'/><target dev='vda'/></disk></devices></domain>"
    ).encode()
