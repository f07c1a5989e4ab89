"""Where the commands look, from the configuration."""

from __future__ import annotations

import argparse

from vmguard.config import Config, load
from vmguard.query.places import DEFAULT_TIMEOUT_S, Places


def of(args: argparse.Namespace) -> Places:
    """Return where to look. Raises ConfigError when the configuration is wrong."""
    return of_config(load(args.config), timeout_of(args))


def of_config(config: Config, timeout: float) -> Places:
    """Return where to look by a configuration. ``timeout``: seconds that the storage may take to answer."""
    return Places(
        run_dir=config.daemon.run_dir,
        libvirt_run_dir=config.libvirt.run_dir,
        libvirt_config_dir=config.libvirt.config_dir,
        proxmox_run_dir=config.proxmox.run_dir,
        proxmox_config_dir=config.proxmox.config_dir,
        trusted_folders=config.storage.trusted_folders,
        record_folder=config.owner_record.directory if config.owner_record.enabled else "",
        timeout=timeout,
        servers=tuple((name, 2 * entry.every + entry.timeout) for name, entry in config.servers.items()),
    )


def timeout_of(args: argparse.Namespace) -> float:
    """Return how many seconds the storage may take to answer: --timeout, or the default."""
    return DEFAULT_TIMEOUT_S if args.timeout is None else float(args.timeout)
