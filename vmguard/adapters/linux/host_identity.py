"""Who this host is: its name, machine id and boot id, all from local files."""

from __future__ import annotations

import os


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""


def host_name() -> str:
    """Return the node name of uname(2): on NFS also the default client identity (fs/nfs/nfs4proc.c)."""
    return os.uname().nodename


def machine_id() -> str:
    """Return /etc/machine-id (machine-id(5)); empty if this host has none."""
    return _first_line("/etc/machine-id")


def boot_id() -> str:
    """Return the random id that the kernel makes at each boot."""
    return _first_line("/proc/sys/kernel/random/boot_id")
