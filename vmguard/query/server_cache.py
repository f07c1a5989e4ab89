"""The last answer of a file's storage server, as the daemon keeps it on this host. Asks nobody."""

from __future__ import annotations

from vmguard.adapters.linux import clock, mounts
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.servers import cache
from vmguard.adapters.servers.cache import Kept
from vmguard.query.places import Places


def of_mount(mount: Mount, places: Places) -> Kept | None:
    """Return what the server of a mount last said of itself, while that is fresh."""
    server = mount.source.partition(":/")[0].strip("[]")
    for name, seconds in places.servers:
        if mount.is_nfs and name in (mount.point, server):
            return cache.fresh(places.run_dir, name, seconds)
    return None


def of_path(path: str, places: Places) -> Kept | None:
    """Return what the server of a path without links last said of itself, while that is fresh."""
    if not places.servers:
        return None
    mount = mounts.mount_of_path(path, mounts.mounts())
    return of_mount(mount, places) if mount is not None else None


def grace_left(kept: Kept | None) -> float:
    """Return for how many seconds from now on new locks wait for the grace period's end; 0 if that is not known."""
    return (kept.free_in(clock.boottime()) or 0.0) if kept is not None else 0.0
