"""Disk images made by qemu-img."""

from __future__ import annotations

import subprocess
from pathlib import Path


def create(path: Path, *options: str, format: str = "qcow2", size: str | None = "1M") -> Path:
    command = ["qemu-img", "create", "-q", "-f", format, *options, str(path)]
    subprocess.run(command + ([size] if size else []), check=True, cwd=path.parent)
    return path


def overlay(path: Path, backing: str, backing_format: str = "qcow2", **more: str) -> Path:
    return create(path, "-u", "-b", backing, "-F", backing_format, **more)
