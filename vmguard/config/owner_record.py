"""The section ``owner_record`` of the table of settings (vmguard/config/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.row import setting
from vmguard.config.values import Duration, Name, YesNo


@dataclass(frozen=True)
class OwnerRecord:
    """The record beside each disk."""

    enabled: bool = setting(
        YesNo(),
        True,
        "Whether each claim writes a small record beside the disk, so that other hosts can say who holds it and since "
        "when. It is never the lock.",
    )
    directory: str = setting(
        Name("the name of a directory, without /", r"(?!\.\.?$)[A-Za-z0-9._-]{1,64}"),
        ".vmguard",
        "The directory of these records, beside the disks. It must be the same on all hosts of a share.",
    )
    timeout: float = setting(
        Duration(0.1, 60),
        5.0,
        "After this time a record that the storage does not take is given up. The VM's start or stop never waits.",
    )
