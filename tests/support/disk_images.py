"""Disk images: made by qemu-img, or by hand where that would refuse to."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path


def create(path: Path, *options: str, format: str = "qcow2", size: str | None = "1M") -> Path:
    command = ["qemu-img", "create", "-q", "-f", format, *options, str(path)]
    subprocess.run(command + ([size] if size else []), check=True, cwd=path.parent)
    return path


def overlay(path: Path, backing: str, backing_format: str = "qcow2", **more: str) -> Path:
    return create(path, "-u", "-b", backing, "-F", backing_format, **more)


def image(path: Path, backing: str = "", format: str = "qcow2") -> Path:
    """A minimal qcow2 header, written by hand: qemu-img would refuse most of what is built here."""
    layer = struct.pack(">II", 0xE2792ACA, len(format)) + format.encode().ljust(8, b"\0") if backing else b""
    name = backing.encode()
    place = 104 + len(layer) + 8 if backing else 0
    head = struct.pack(">4sIQII", b"QFI\xfb", 3, place, len(name), 16).ljust(72, b"\0")
    head += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    path.write_bytes((head + layer + bytes(8) + name).ljust(4096, b"\0"))
    return path
