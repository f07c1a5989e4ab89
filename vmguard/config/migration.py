"""The section ``migration`` of the table of settings (vmguard/config/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.row import setting
from vmguard.config.values import Duration


@dataclass(frozen=True)
class Migration:
    """VMs that migrate to this host."""

    pending: float = setting(
        Duration(5, 3600),
        60.0,
        "After libvirt has announced that a VM is about to migrate to this host, a start of it is taken for that "
        "migration for this long. A migration that is announced and never comes (--offline) is forgotten then.",
    )
    deadline: float = setting(
        Duration(1, 600),
        10.0,
        "A VM that migrated to this host runs here, and its source must let go of its disks. When it has not done so "
        "after this time, unguarded.action is taken: two hosts may be writing to one disk.",
    )
