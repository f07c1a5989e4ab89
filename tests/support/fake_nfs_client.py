"""The NFS client of a kernel and its server, as far as a probe of a lock sees them: system calls and mountstats.

It follows nfs42_proc_llseek, nfs4_file_llseek and nfs_file_direct_read; net/sunrpc/stats.c counts.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from vmguard.adapters.linux.mountstats import NfsStatistics, parse_mountstats
from vmguard.adapters.storage.probe_calls import ProbeCalls

_MOUNTSTATS = """\
device rootfs mounted on / with fstype ext4
device nas:/vm mounted on /srv/vm with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2,rsize=262144,wsize=262144,hard,proto=tcp,timeo=600,retrans=2,sec=sys,local_lock=none
\tage:\t{age}
\tnfsv4:\tbm0=0xfdffbfff,bm1=0x40f9be3e,bm2=0x28803,acl=0x3,sessions,pnfs=not configured,lease_time=10,lease_expired=0
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\txprt:\ttcp 875 1 1 0 0 75 75 0 75 0 2 0 0
\tper-op statistics
{operations}
"""
POINT = "/srv/vm"


class FakeNfsClient(ProbeCalls):
    """One mount and one locked file on it. Nothing hangs: a server that is away is not its business."""

    def __init__(self) -> None:
        #: how the server answers SEEK: 0 (with ``sr_eof``) or an NFSv4 error by its errno
        self.seek_error = errno.ENXIO
        #: how it answers READ: 0 or an errno
        self.read_error = 0
        #: NFS_CAP_SEEK
        self.capable = True
        #: the client knows that the lock is lost
        self.lost = False
        self.direct = True
        #: the page cannot be dropped from the page cache
        self.busy = False
        #: what the kernel says of pages: nothing, if this is False
        self.tells_residency = True
        #: READ is answered by a cache on this host (``fsc``)
        self.local_cache = False
        self.size = 8192
        #: requests are given up before they are answered (umount -f)
        self.cut = False
        self.age = 100
        self.session = 1
        #: is called within each request: others ask meanwhile
        self.beside: Callable[[], None] = lambda: None
        self._numbers = {name: [0, 0, 0] for name in ("SEEK", "READ", "STATFS")}

    def asked(self, operation: str) -> int:
        return self._numbers[operation][0]

    def mountstats(self) -> str:
        rows = {name: f"{ops} {ops} 0 {ops * 200} {got} 0 1 1 {bad}" for name, (ops, got, bad) in self._numbers.items()}
        rows |= {"EXCHANGE_ID": f"{self.session} 1 0 1 1 0 1 1 0", "CREATE_SESSION": f"{self.session} 1 0 1 1 0 1 1 0"}
        lines = "\n".join(f"\t{name:>12}: {numbers}" for name, numbers in rows.items())
        return _MOUNTSTATS.format(age=self.age, operations=lines)

    def statistics(self) -> list[NfsStatistics]:
        return list(parse_mountstats(self.mountstats().splitlines(keepends=True)))

    def count(self, operation: str, failed: bool, answered: bool = True) -> None:
        numbers = self._numbers[operation]
        numbers[0] += 1
        numbers[1] += 120 if answered else 0
        numbers[2] += failed

    def remount(self) -> None:
        self.age, self.capable = 0, True
        self._numbers = {name: [0, 0, 0] for name in self._numbers}

    def _request(self, operation: str, error: int) -> None:
        self.beside()
        if self.cut:
            self.count(operation, True, answered=False)
            raise OSError(errno.EIO, "given up")
        self.count(operation, error != 0)
        if error:
            raise OSError(error, operation)

    def seek(self, fd: int) -> int:
        if not self.capable:
            self.beside()
            return 0  # generic_file_llseek: ENXIO behind the end
        if self.lost:
            raise OSError(errno.EIO, "lost")
        try:
            self._request("SEEK", self.seek_error)
        except OSError as problem:
            if problem.errno == errno.EOPNOTSUPP:
                self.capable = False
                return 0
            if problem.errno == errno.ENXIO:
                return 0
            raise
        return 0

    def read(self, fd: int, page: int) -> int:
        if self.local_cache:
            return 4096
        if self.lost:
            raise OSError(errno.EIO, "lost")
        if not self.direct and self.size == 0:
            return 0
        self._request("READ", self.read_error)
        return min(4096, self.size)

    def statfs(self, fd: int) -> int:
        self._request("STATFS", 0)
        return 0

    def is_direct(self, fd: int) -> bool:
        return self.direct

    def some_pages(self, fd: int) -> list[int]:
        return [0, 1] if self.size else []

    def give_back(self, fd: int, page: int) -> bool | None:
        return not self.busy if self.tells_residency else None
