"""Where the commands look, from the configuration."""

from __future__ import annotations

import argparse

from vmguard.config import Config, load
from vmguard.query.places import DEFAULT_TIMEOUT_S, Places


def of(args: argparse.Namespace) -> Places:
    """Return where to look. Raises ConfigError when the configuration is wrong."""
    return from_config(load(args.config), args)


def from_config(config: Config, args: argparse.Namespace) -> Places:
    """Return where a configuration says to look."""
    return Places(
        run_dir=config.daemon.run_dir,
        libvirt_run_dir=config.libvirt.run_dir,
        libvirt_config_dir=config.libvirt.config_dir,
        proxmox_run_dir=config.proxmox.run_dir,
        proxmox_config_dir=config.proxmox.config_dir,
        record_folder=config.owner_record.directory if config.owner_record.enabled else "",
        timeout=timeout_of(args),
    )


def timeout_of(args: argparse.Namespace) -> float:
    """Return how many seconds the storage may take to answer: --timeout, or the default."""
    return DEFAULT_TIMEOUT_S if args.timeout is None else float(args.timeout)
