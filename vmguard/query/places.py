"""Where to look for VMs, state files and owner records."""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.adapters.proxmox import host as proxmox_host

#: how long the storage may take to answer, unless ``--timeout`` says otherwise
DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Places:
    """Directories, all of them from the configuration, and how long the storage may take."""

    run_dir: str
    libvirt_run_dir: str
    libvirt_config_dir: str
    #: name of the folder beside the disks that holds the owner records; empty when none are written
    record_folder: str
    proxmox_run_dir: str = proxmox_host.RUN_DIR
    proxmox_config_dir: str = proxmox_host.CONFIG_DIR
    #: that the links on a share, and the headers of images, may lead to
    trusted_folders: tuple[str, ...] = ()
    #: seconds
    timeout: float = DEFAULT_TIMEOUT_S
    #: the storage servers that the daemon has asked, and for how many seconds an answer counts
    servers: tuple[tuple[str, float], ...] = ()
