"""The section ``proxmox`` of the table of settings (vmguard/config/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.row import setting
from vmguard.config.values import AbsolutePath, Duration


@dataclass(frozen=True)
class Proxmox:
    """Starts on Proxmox VE, and its directories."""

    lock_wait: float = setting(
        Duration(0, 3600),
        0.0,
        "How long a start waits for a disk that is locked by another host before it fails. Long enough for a dead "
        "host's lock to end, or HA burns its tries in between. 0s: the server's lease, as much again for its grace "
        "period, and a margin: 189s with the usual lease of 90 s.",
    )
    mount_wait: float = setting(
        Duration(0, 3600),
        60.0,
        "How long a start waits for a storage, or a share of fstab below a disk, that is not mounted yet, as after a "
        "boot, before it fails. Proxmox "
        "mounts it every 10 s if it can.",
    )
    config_dir: str = setting(
        AbsolutePath(),
        "/etc/pve",
        "Where the cluster's file system is, as the command line looks for VMs. The hook takes the default place.",
    )
    run_dir: str = setting(
        AbsolutePath(),
        "/run/qemu-server",
        "Where Proxmox keeps the pid files of its QEMU processes. Neither the directory nor a pid file may be writable "
        "for anybody but root, or it is not believed.",
    )
    snippets_dir: str = setting(
        AbsolutePath(),
        "/var/lib/vz/snippets",
        "The folder of the storage local's snippets, where the link to the hookscript is made. Never one on a guarded "
        "share: Proxmox would hang with it.",
    )
