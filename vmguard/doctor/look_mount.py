"""Looks at NFS mounts through /proc alone: that sends no request, so it cannot hang."""

from __future__ import annotations

from typing import TextIO

from vmguard.adapters.linux import mounts
from vmguard.doctor.facts import MountFacts

_COUNTED = ("RECLAIM_COMPLETE", "DELEGRETURN", "LOCK", "LOCKU")


class Counters:
    """One mount's part of /proc/self/mountstats."""

    def __init__(self) -> None:
        self.age = 0.0
        self.lease = 0.0
        self.pnfs = "not configured"
        #: operation -> how many of it
        self.operations: dict[str, int] = {}


def counters(text: str) -> dict[str, Counters]:
    """By mount point, of every NFS mount; the last one mounted there counts, as for a path."""
    found: dict[str, Counters] = {}
    current: Counters | None = None
    for line in text.splitlines():
        if line.startswith("device "):
            point, _, kind = line.partition(" mounted on ")[2].partition(" with fstype ")
            current = Counters() if kind.startswith(mounts.NFS_TYPES) else None
            if current is not None:
                found[mounts.unescape(point)] = current
            continue
        if current is None:
            continue
        name, _, value = line.strip().partition(":")
        if name == "age":
            current.age = float(value)
        elif name == "nfsv4":
            words = dict(word.split("=", 1) for word in value.strip().split(",") if "=" in word)
            current.pnfs = words.get("pnfs", current.pnfs)
            current.lease = float(words.get("lease_time", 0))
        elif name in _COUNTED:
            current.operations[name] = int(value.split()[0])
    return found


def look(mountinfo: list[mounts.Mount] | None = None, mountstats: str = "/proc/self/mountstats") -> list[MountFacts]:
    """Every NFS mount of this host; a mount that another one hides is left out."""
    with open(mountstats, encoding="utf-8", errors="surrogateescape") as stream:
        known = counters(stream.read())
    visible = {mount.point: mount for mount in (mounts.mounts() if mountinfo is None else mountinfo)}
    return [_facts(mount, known.get(mount.point, Counters())) for mount in visible.values() if mount.is_nfs]


def _facts(mount: mounts.Mount, counted: Counters) -> MountFacts:
    return MountFacts(
        point=mount.point,
        source=mount.source,
        version=mount.option("vers"),
        options=(*mount.options, *(["ro"] if mount.read_only and "ro" not in mount.options else [])),
        device=mount.device,
        lease=counted.lease,
        age=counted.age,
        pnfs=counted.pnfs,
        delegations=counted.operations.get("DELEGRETURN", 0),
        reclaim_complete=counted.operations.get("RECLAIM_COMPLETE", 0),
    )


def lock_requests(point: str, stream: TextIO) -> int | None:
    """How many LOCK and LOCKU a mount has sent so far, by an open mountstats; None where it is not told."""
    stream.seek(0)
    found = counters(stream.read()).get(point)
    if found is None or not found.operations:
        return None
    return found.operations.get("LOCK", 0) + found.operations.get("LOCKU", 0)


def mount_of(path: str, found: list[MountFacts]) -> MountFacts | None:
    """Return the NFS mount below which a path lies, judged by the path alone; None when there is none."""
    below = [mount for mount in found if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")]
    return max(below, key=lambda mount: len(mount.point), default=None)
