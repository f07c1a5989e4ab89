"""The kernels that guests run: this machine's own (package user-mode-linux), or one that tests/lab/get-kernel keeps.

    VMGUARD_LAB_KERNEL=6.12 tests/run -m lab           all guests
    VMGUARD_LAB_SERVER_KERNEL=testing tests/run        the storage alone
    lab.nfs_server(kernel="6.12")                      one guest

``6.12`` is Debian 13's, ``testing`` the newest that Debian has, ``own`` this machine's.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.errors import LabUnavailable

_GET_KERNEL: Final = Path(__file__).with_name("get-kernel")


@dataclass(frozen=True)
class Kernel:
    """A User Mode Linux and the folder of its modules, which has one folder for each release."""

    program: Path
    modules: Path


OWN: Final = Kernel(Path("/usr/bin/linux.uml"), Path("/usr/lib/uml/modules"))


def of_server(name: str | None = None) -> Kernel:
    """Return a storage's kernel by name; without one, that of VMGUARD_LAB_SERVER_KERNEL, else the other guests'."""
    return kernel(name or os.environ.get("VMGUARD_LAB_SERVER_KERNEL"))


def kernel(name: str | None = None) -> Kernel:
    """Return a kernel by name; without one, that of VMGUARD_LAB_KERNEL, else this machine's.

    Raises LabUnavailable if it was not fetched.
    """
    name = name or os.environ.get("VMGUARD_LAB_KERNEL") or "own"
    if name == "own":
        return OWN
    where = subprocess.run([_GET_KERNEL, "--where", name], capture_output=True, text=True, timeout=10)
    if where.returncode:
        raise LabUnavailable(where.stderr.strip())
    folder = Path(where.stdout.strip())
    if not (folder / "linux.uml").exists():
        raise LabUnavailable(f"there is no kernel {name} in {folder}: fetch it by {_GET_KERNEL} {name}")
    return Kernel(folder / "linux.uml", folder / "modules")
