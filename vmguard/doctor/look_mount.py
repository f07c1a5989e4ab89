"""Looks at NFS mounts through /proc alone: that sends no request, so it cannot hang."""

from __future__ import annotations

from typing import TextIO

from vmguard.adapters.linux import mounts
from vmguard.adapters.linux.mounts import NfsStatistics
from vmguard.doctor.facts import MountFacts


def look(mountinfo: list[mounts.Mount] | None = None, mountstats: str = mounts.MOUNTSTATS) -> list[MountFacts]:
    """Every NFS mount of this host; a mount that another one hides is left out."""
    known = {seen.point: seen for seen in mounts.all_statistics(mountstats)}
    visible = {mount.point: mount for mount in (mounts.mounts() if mountinfo is None else mountinfo)}
    return [
        _facts(mount, known.get(mount.point, NfsStatistics(mount.point))) for mount in visible.values() if mount.is_nfs
    ]


def _facts(mount: mounts.Mount, counted: NfsStatistics) -> MountFacts:
    return MountFacts(
        point=mount.point,
        source=mount.source,
        version=mount.option("vers"),
        options=(*mount.options, *(["ro"] if mount.read_only and "ro" not in mount.options else [])),
        device=mount.device,
        lease=counted.lease,
        age=counted.age,
        pnfs=counted.pnfs,
        delegations=counted.count("DELEGRETURN"),
        reclaim_complete=counted.reclaim_complete,
    )


def lock_requests(point: str, stream: TextIO) -> int | None:
    """How many LOCK and LOCKU a mount has sent so far, by an open mountstats; None where it is not told."""
    stream.seek(0)
    found = {seen.point: seen for seen in mounts.parse_mountstats(stream)}.get(point)
    if found is None or not {"LOCK", "LOCKU"} & found.operations.keys():
        return None
    return found.count("LOCK") + found.count("LOCKU")


def mount_of(path: str, found: list[MountFacts]) -> MountFacts | None:
    """Return the NFS mount below which a path lies, judged by the path alone; None when there is none."""
    below = [mount for mount in found if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")]
    return max(below, key=lambda mount: len(mount.point), default=None)
