"""The second and third writer of a VM on Proxmox: swtpm, and the qemu-storage-daemon that gives it its state.

Beside proxmox_host.py because the hook, on its hot path, reads that one and needs nothing of this.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import proc
from vmguard.adapters.proxmox.host import pid_in
from vmguard.core.sources.process_arguments import Kind, kind_of, served
from vmguard.core.sources.pve_config import is_vmid


def helpers_of(run_dir: str, vmid: str) -> list[tuple[int, Kind]]:
    """The VM's swtpm and qemu-storage-daemon by their pid files (QemuServer.pm, start_swtpm; QSD.pm).

    A pid file may be old and its number a stranger's: only a program of that name with this VM's files counts.
    """
    if not is_vmid(vmid):
        return []
    found = []
    for name, kind in ((f"{vmid}.swtpm.pid", Kind.SWTPM), (f"qsd-{vmid}.pid", Kind.STORAGE_DAEMON)):
        pid = pid_in(os.path.join(run_dir, name))
        if pid > 1 and kind_of(proc.program(pid), words := proc.cmdline(pid)) is kind and vmid in served(words).vmids:
            found.append((pid, kind))
    return found
