"""Where the commands look, from the configuration."""

from __future__ import annotations

import argparse

from vmguard.config import load
from vmguard.query.lookup import Places


def of(args: argparse.Namespace) -> Places:
    """Raises ConfigError when the configuration is wrong."""
    config = load(args.config)
    return Places(
        run_dir=config.daemon.run_dir,
        libvirt_run_dir=config.libvirt.run_dir,
        libvirt_config_dir=config.libvirt.config_dir,
        proxmox_run_dir=config.proxmox.run_dir,
        proxmox_config_dir=config.proxmox.config_dir,
        record_folder=config.owner_record.directory if config.owner_record.enabled else "",
        timeout=10.0 if args.timeout is None else args.timeout,
    )
