"""What the kernel counts on each NFS mount: /proc/self/mountstats. No call here touches the share."""

from __future__ import annotations

import os

from vmguard.adapters.linux.mounts import NFS_TYPES, unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOUNTSTATS = "/proc/self/mountstats"
#: of 2**64
_MOST_DIGITS = 20
#: what a client sends when it sets up its state with a server, and when it looks whether that still stands
_STATE_OPERATIONS = (b"EXCHANGE_ID: ", b"CREATE_SESSION: ", b"RECLAIM_COMPLETE: ", b"TEST_STATEID: ")


class NfsStatistics:
    """One NFS mount as /proc/self/mountstats shows it.

    The operations are counted since the mount. Those of the client as a whole (EXCHANGE_ID and the like) are counted in
    each of its mounts.
    """

    __slots__ = ("age", "connects", "has_lease", "lease", "operations", "pnfs", "point")

    def __init__(self, point: str) -> None:
        self.point = point
        #: seconds since the mount
        self.age = 0.0
        #: whether the kernel names a lease at all: NFSv4 only (show_lease in fs/nfs/super.c)
        self.has_lease = False
        #: the server's lease in seconds
        self.lease = 0.0
        self.pnfs = "not configured"
        #: connections made to the server since the mount
        self.connects = 0
        #: operation -> its numbers, as the kernel wrote them; most are never asked for
        self.operations: dict[str, str] = {}

    def count(self, operation: str) -> int:
        """Return how many requests of an operation were sent."""
        return _whole(self.operations.get(operation, "").split(), 0)

    def received(self, operation: str) -> int:
        """Return how many bytes of answers came back: requests that were given up add none."""
        return _whole(self.operations.get(operation, "").split(), 4)

    def errors(self, operation: str) -> int | None:
        """Return how many of them the server answered with an error (or were given up); None if not shown.

        This is the ninth number of the line, which older kernels do not write.
        """
        numbers = self.operations.get(operation, "").split()
        return _whole(numbers, 8) if len(numbers) > 8 else None

    @property
    def exchange_id(self) -> int:
        return self.count("EXCHANGE_ID")

    @property
    def create_session(self) -> int:
        return self.count("CREATE_SESSION")

    @property
    def reclaim_complete(self) -> int:
        return self.count("RECLAIM_COMPLETE")

    @property
    def test_stateid(self) -> int:
        return self.count("TEST_STATEID")


def _whole(words: list[str], index: int) -> int:
    """Return a whole number of a line; 0 where there is none."""
    word = words[index] if len(words) > index else ""
    return int(word) if word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS else 0


def parse_mountstats(lines: Iterable[str]) -> Iterator[NfsStatistics]:
    """Yield every NFS mount, in the order of the table: of two on one mount point the later one hides the earlier."""
    current: NfsStatistics | None = None
    for line in lines:
        if line.startswith("device "):
            if current is not None:
                yield current
            point, _, kind = line.partition(" mounted on ")[2].partition(" with fstype ")
            current = NfsStatistics(unescape(point)) if kind.partition(" ")[0].strip() in NFS_TYPES else None
            continue
        name, colon, value = line.strip().partition(":")
        if current is None or not colon:
            continue
        if name == "age":
            current.age = float(_whole(value.split(), 0))
        elif name == "nfsv4":
            _read_nfsv4(value.strip(), current)
        elif name == "xprt":
            current.connects += _connects(value.split())
        elif name.isupper():  # operations are the only names in capitals
            current.operations[name] = value
    if current is not None:
        yield current


def _read_nfsv4(value: str, found: NfsStatistics) -> None:
    """Read ``bm0=0xfdffbfff,...,sessions,pnfs=not configured,lease_time=90,lease_expired=0``."""
    for word in value.split(","):
        name, _, text = word.partition("=")
        if name == "pnfs":
            found.pnfs = text
        elif name == "lease_time":
            found.has_lease = True
            found.lease = float(_whole([text], 0))


def _connects(words: list[str]) -> int:
    """Read ``tcp PORT BINDS CONNECTS ...`` (xs_tcp_print_stats, xprt_rdma_print_stats); nconnect makes several."""
    return int(words[3]) if words[:1] in (["tcp"], ["rdma"]) and len(words) > 3 and words[3].isdigit() else 0


def all_statistics(path: str = MOUNTSTATS) -> list[NfsStatistics]:
    """Return the statistics of every NFS mount. No request is made."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return list(parse_mountstats(lines))


def statistics(path: str = MOUNTSTATS) -> dict[str, NfsStatistics]:
    """Return the statistics of every mount with a lease (NFSv4), by mount point. No request is made."""
    return {seen.point: seen for seen in all_statistics(path) if seen.has_lease}


def lock_requests(path: str = MOUNTSTATS) -> dict[str, int]:
    """Return how many LOCK requests each NFSv4 mount has sent, by mount point.

    Without a point that several NFS mounts lie on. In a claim's way: it reads nothing else of the statistics. Raises
    OSError.
    """
    found: dict[bytes, int] = {}
    several = set()
    for point, block in _blocks(path):
        count = block.partition(b" LOCK: ")[2]
        if count:
            several.update([point] if point in found else [])
            found[point] = int(count.partition(b" ")[0])
    return {unescape(os.fsdecode(point)): count for point, count in found.items() if point not in several}


def sessions(points: Iterable[str], path: str = MOUNTSTATS) -> dict[str, list[bytes]]:
    """Return how often the clients of NFSv4 mounts have set up, or checked, their state with the server.

    By mount point, for those that are asked for; equal to an earlier answer if nothing happened since that may have
    cost a lock. In a claim's way, as ``lock_requests``. Raises OSError.
    """
    found: dict[str, list[bytes]] = {point: [] for point in points}
    if not found:
        return found
    for point, block in _blocks(path):
        counts = found.get(unescape(os.fsdecode(point)))
        if counts is not None:
            counts += [block.partition(name)[2].partition(b" ")[0] for name in _STATE_OPERATIONS]
    return found


def _blocks(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the mount point and the text of each mount of a mountstats."""
    with open(path, "rb") as stream:
        for block in stream.read().split(b"\ndevice "):
            yield block.partition(b" mounted on ")[2].partition(b" with fstype ")[0], block


def lease_time(mount_point: str) -> float | None:
    """Return the server's lease in seconds, as it told this client; None if the mount has none."""
    known = statistics().get(mount_point)
    return known.lease if known is not None else None
