"""Looks at NFS mounts through /proc alone: that sends no request, so it cannot hang."""

from __future__ import annotations

import os
from typing import TextIO

from vmguard.adapters.linux import configured_mounts, mounts, mountstats
from vmguard.adapters.linux.mountstats import NfsStatistics
from vmguard.doctor.facts import AbsentShareFacts, MountFacts, OtherMountFacts

_VOLUMES = "/proc/fs/nfsfs/volumes"
#: file systems of programs that offer no place for disks
_NO_STORAGE = ("fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse", "fuse.snapfuse", "hostfs")
_PROXMOX_CONFIG = "/etc/pve"


def look(
    mountinfo: list[mounts.Mount] | None = None, statistics: str = mountstats.MOUNTSTATS, volumes: str = _VOLUMES
) -> list[MountFacts]:
    """Every NFS mount of this host; a mount that another one hides is left out."""
    known = {seen.point: seen for seen in mountstats.all_statistics(statistics)}
    visible = {mount.point: mount for mount in (mounts.mounts() if mountinfo is None else mountinfo)}
    fsids = _fsids(volumes)
    return [
        _facts(mount, known.get(mount.point, NfsStatistics(mount.point)), fsids.get(mount.device, ""))
        for mount in visible.values()
        if mount.is_nfs
    ]


def _fsids(path: str) -> dict[int, str]:
    """Map devices to the server's ids of their file systems (nfs_volume_list_show: NV SERVER PORT DEV FSID FSC)."""
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            rows = [line.split() for line in lines]
    except OSError:
        return {}
    found = {}
    for row in rows:
        major, _, minor = row[3].partition(":") if len(row) > 4 else ("", "", "")
        if major.isdigit() and minor.isdigit():
            found[os.makedev(int(major), int(minor))] = row[4]
    return found


def look_others(mountinfo: list[mounts.Mount] | None = None) -> list[OtherMountFacts]:
    """Return the mounts that are neither NFS nor this host's own, without those that hold no disks."""
    table = list(mounts.mounts()) if mountinfo is None else mountinfo
    visible = {mount.point: mount for mount in table}
    return [
        OtherMountFacts(mount.point, mounts.why_other(mount))
        for mount in visible.values()
        if not mount.is_nfs and mounts.kind_of(mount, table) == mounts.OTHER
        if mount.type not in _NO_STORAGE and mount.point != _PROXMOX_CONFIG
    ]


def look_absent() -> list[AbsentShareFacts]:
    """Return the shares that are to be mounted and are not, without those that are mounted by hand (noauto)."""
    table = list(mounts.mounts())
    shares = [share for share in configured_mounts.shares() if not share.is_by_hand]
    configured_mounts.resolve_points(shares, table)
    absent = {
        share.point: AbsentShareFacts(share.point, share.source, share.file)
        for share in shares
        if configured_mounts.absent_below(share.point, shares, table) is not None
    }
    return list(absent.values())


def _facts(mount: mounts.Mount, counted: NfsStatistics, fsid: str) -> MountFacts:
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
        fsid=fsid,
    )


def lock_requests(point: str, stream: TextIO) -> int | None:
    """How many LOCK and LOCKU a mount has sent so far, by an open mountstats; None where it is not told."""
    stream.seek(0)
    found = {seen.point: seen for seen in mountstats.parse_mountstats(stream)}.get(point)
    if found is None or not {"LOCK", "LOCKU"} & found.operations.keys():
        return None
    return found.count("LOCK") + found.count("LOCKU")


def mount_of(path: str, found: list[MountFacts]) -> MountFacts | None:
    """Return the NFS mount below which a path lies, judged by the path alone; None when there is none."""
    below = [mount for mount in found if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")]
    return max(below, key=lambda mount: len(mount.point), default=None)
