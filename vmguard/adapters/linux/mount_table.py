"""This host's mounts as an object: the seam through which the watchdog reads them, so that tests can stand in."""

from __future__ import annotations

from collections.abc import Iterator

from vmguard.adapters.linux import mounts, mountstats
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.linux.mountstats import NfsStatistics


class MountTable:
    """Mounts and NFS counters, read anew at each call. No call touches a share."""

    def mounts(self) -> Iterator[Mount]:
        """Yield all mounts of this process's mount namespace."""
        return mounts.mounts()

    def statistics(self) -> dict[str, NfsStatistics]:
        """Return lease and counters of every NFSv4 mount, by mount point."""
        return mountstats.statistics()
