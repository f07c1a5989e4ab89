"""What the kernel says about mounts: /proc/PID/mountinfo and /proc/self/mountstats. No call here touches the share."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NFS_TYPES = ("nfs", "nfs4")


class Mount:
    """One line of mountinfo (proc(5))."""

    __slots__ = ("device", "id", "options", "point", "read_only", "source", "type")

    def __init__(
        self, mount_id: int, device: int, point: str, kind: str, source: str, options: str, read_only: bool = False
    ) -> None:
        self.id = mount_id
        self.device = device
        self.point = point
        self.type = kind
        self.source = source
        #: the file system's own options: ``vers=4.2,hard,local_lock=none,...``
        self.options = options.split(",")
        #: this mount of it, whatever the file system's own options say
        self.read_only = read_only

    def option(self, name: str) -> str:
        """The value of ``name=value``, empty when it is absent."""
        for word in self.options:
            if word.startswith(name + "="):
                return word[len(name) + 1 :]
        return ""

    @property
    def is_nfs(self) -> bool:
        return self.type in NFS_TYPES


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    parts = [head]
    for piece in rest:
        parts.append(chr(int(piece[:3], 8)) + piece[3:] if piece[:3].isdigit() else "\\" + piece)
    return "".join(parts)


def mounts(pid: int | str = "self") -> Iterator[Mount]:
    """All mounts of a process's mount namespace. Raises OSError when the process is gone."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.rstrip("\n").partition(" - ")
            before, after = left.split(" "), right.split(" ")
            if len(before) < 6 or len(after) < 3:
                continue
            major, _, minor = before[2].partition(":")
            device = os.makedev(int(major), int(minor))
            point, source, read_only = unescape(before[4]), unescape(after[1]), "ro" in before[5].split(",")
            yield Mount(int(before[0]), device, point, after[0], source, after[2], read_only)


def mount_of_id(mount_id: int) -> Mount | None:
    """The mount that a descriptor's ``mnt_id`` names; None when it is gone from this namespace."""
    for mount in mounts():
        if mount.id == mount_id:
            return mount
    return None


def devices(pid: int | str = "self") -> dict[int, int]:
    """From mount id to device number, for a process's mount namespace."""
    return {mount.id: mount.device for mount in mounts(pid)}


def why_unsafe(mount: Mount) -> str:
    """Why a lock on this mount would prove nothing; empty when it would.

    NFSv3 has no lease: a lost lock is never reported (fs/lockd/clntlock.c, reclaimer). ``nolock`` and
    ``local_lock=posix|all`` keep OFD locks on this host alone (nfs(5)).
    """
    if not mount.is_nfs:
        return ""
    local = mount.option("local_lock")
    version = mount.option("vers")
    if "nolock" in mount.options or local in ("posix", "all"):
        return (
            f"{mount.point} is mounted with {'nolock' if not local else 'local_lock=' + local}: locks stay on this host"
        )
    if version.startswith(("2", "3")):
        return f"{mount.point} is mounted with NFSv{version}: a lost lock is never noticed (use vers=4.1 or 4.2)"
    return ""


class NfsStatistics:
    """What /proc/self/mountstats tells of one NFSv4 mount: the lease in seconds, and how often the client had to talk
    about its own state (sums since the mount; the operations of the whole client are counted in each of its mounts)."""

    __slots__ = ("create_session", "exchange_id", "lease", "point", "reclaim_complete", "test_stateid")

    def __init__(self, point: str) -> None:
        self.point = point
        self.lease = 0.0
        self.exchange_id = 0
        self.create_session = 0
        self.reclaim_complete = 0
        self.test_stateid = 0


_COUNTED = {
    "EXCHANGE_ID": "exchange_id",
    "CREATE_SESSION": "create_session",
    "RECLAIM_COMPLETE": "reclaim_complete",
    "TEST_STATEID": "test_stateid",
}


def statistics(path: str = "/proc/self/mountstats") -> dict[str, NfsStatistics]:
    """By mount point, of every mount with a lease (show_lease in fs/nfs/super.c): NFSv4 ones. No request is made."""
    found: dict[str, NfsStatistics] = {}
    current: NfsStatistics | None = None
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if line.startswith("device "):
                point = unescape(line.partition(" mounted on ")[2].partition(" with fstype ")[0])
                current = NfsStatistics(point)
            elif current is None:
                continue
            elif "lease_time=" in line:
                value = line.partition("lease_time=")[2].partition(",")[0].strip()
                current.lease = float(value) if value.isdigit() else 0.0
                found[current.point] = current
            else:
                name, colon, numbers = line.strip().partition(": ")
                if colon and name in _COUNTED:
                    setattr(current, _COUNTED[name], int(numbers.split()[0]))
    return found


def lease_time(mount_point: str) -> float | None:
    """The server's lease in seconds, as it told this client; None when the mount has none."""
    known = statistics().get(mount_point)
    return known.lease if known is not None else None
