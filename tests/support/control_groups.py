"""Control groups of VMs, as a hypervisor makes them, in a tree of the tests' own: systemd's is left alone.

::

    groups = ControlGroups(tmp_path / "groups")
    groups.put(libvirt_scope("web"), qemu.pid)
    groups.end()                                 # when these processes have ended
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def libvirt_scope(name: str, number: int = 3) -> str:
    """Return the group of libvirt's VM, as systemd-machined names it."""
    return f"machine.slice/machine-qemu\\x2d{number}\\x2d{name}.scope"


class ControlGroups:
    """A hierarchy of version 1 without controllers, which shows in /proc/PID/cgroup as any other one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        subprocess.run(["mount", "-t", "cgroup", "-o", "none,name=vmguard-tests", "none", str(folder)], check=True)

    def put(self, scope: str, *pids: int) -> None:
        """Move processes into a VM's group."""
        group = self._folder / scope / "libvirt/emulator"
        group.mkdir(parents=True, exist_ok=True)
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))

    def end(self) -> None:
        """Remove the groups; what is left in one goes back to the top."""
        for path, _, _ in os.walk(self._folder, topdown=False):
            folder = Path(path)
            if folder != self._folder:
                for pid in (folder / "cgroup.procs").read_text().split():
                    (self._folder / "cgroup.procs").write_text(pid)
                folder.rmdir()
        subprocess.run(["umount", str(self._folder)], check=True)
