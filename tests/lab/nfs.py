"""The server role: an ext4 image exported over NFS by the kernel's nfsd, with a recovery database for its clients."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.lab.errors import LabError, Result
from tests.lab.guest import Guest, Hardware
from tests.lab.space import Space

ROOT: Final = "/srv"
EXPORT: Final = "/srv/vm"
STATE: Final = "/var/lib/nfs"


class Storage(Protocol):
    """What a scenario wants of a server, whichever it is: one guest, or a pair of which one serves."""

    #: a command that makes its hosts fit for it, before they mount; empty if nothing is to be done
    host_setting: str

    def source(self, export: str = EXPORT, nfs3: bool = False) -> str: ...
    def run(self, command: str | Sequence[str], timeout: float = 10.0, check: bool = True) -> Result: ...
    def get(self, path: str, timeout: float = 30.0) -> bytes: ...
    def locks(self) -> str: ...
    def in_grace(self) -> bool: ...
    def reboot(self, down: float = 0.0, forget: bool = False) -> None: ...


@dataclass(frozen=True)
class NfsClient:
    """One entry of /proc/fs/nfsd/clients."""

    number: str
    name: str  # "Linux NFSv4.2 hyp-a"
    address: str  # "10.77.0.12:791"
    info: dict[str, str]


@dataclass(frozen=True)
class ServerSettings:
    """lease and grace in seconds. nfs3: also serve NFSv3 (rpcbind, statd). exports: folder -> options."""

    lease: int
    grace: int
    exports: dict[str, str]
    nfs3: bool = False


class NfsServer(Guest):
    """Storage. Its disks (the exported image and nfsd's recovery database) survive a power cut.

    srv.reboot(down=5)             power cut, 5 s off, power on; clients reclaim their locks
    srv.reboot(forget=True)        the same, but the server no longer knows its clients: no lock can be reclaimed
    srv.expire("hyp-a")            the server drops that client and its locks at once, as an admin can
    """

    host_setting = ""

    def __init__(self, space: Space, hardware: Hardware, settings: ServerSettings) -> None:
        super().__init__(space, hardware)
        self.settings = settings
        self._forget = False
        #: whether it gives delegations, from its next boot on (fs.leases-enable)
        self.leases = True
        for image, size in zip(hardware.images, ("4G", "32M"), strict=True):
            if not image.exists():  # of a pair the first node makes them
                make_image(image, size)

    def source(self, export: str = EXPORT, nfs3: bool = False) -> str:
        """Return what a client mounts. NFSv4 paths start at the pseudo root /srv; the overlay cannot be exported."""
        return f"{self.address}:{export if nfs3 else export.removeprefix(ROOT)}"

    def reboot(self, down: float = 0.0, forget: bool = False) -> None:
        """Cut the power for `down` seconds; return once the server serves again."""
        self.power_cut()
        time.sleep(down)
        self.boot(forget)
        self.wait()

    def boot(self, forget: bool = False) -> None:
        self._forget = forget
        super().boot()

    def clients(self) -> list[NfsClient]:
        text = self.run("cd /proc/fs/nfsd/clients && for n in *; do [ ! -d $n ] || { echo @$n; cat $n/info; }; done")
        found = []
        for block in re.split(r"^@", text.stdout, flags=re.MULTILINE)[1:]:
            number, _, lines = block.partition("\n")
            info = dict(re.findall(r'^([^:\n]+): "?(.*?)"?$', lines, re.MULTILINE))
            found.append(NfsClient(number, info.get("name", ""), info.get("address", ""), info))
        return found

    def expire(self, hostname: str) -> None:
        """Drop all clients of that host, with their locks, as `echo expire > ctl` does."""
        numbers = [client.number for client in self.clients() if client.name.split()[-1:] == [hostname]]
        if not numbers:
            raise LabError(f"{self.name}: knows no client {hostname!r}")
        for number in numbers:
            self.run(f"echo expire > /proc/fs/nfsd/clients/{number}/ctl")

    def locks(self) -> str:
        """Return the server's /proc/locks: what it considers locked."""
        return self.run(["cat", "/proc/locks"]).stdout

    def in_grace(self) -> bool:
        """Return whether clients may still reclaim their locks."""
        return self.run(["cat", "/proc/fs/nfsd/v4_end_grace"]).stdout.strip() == "N"

    def end_grace(self) -> None:
        """End the grace period by hand, as an impatient admin does."""
        switch = "/proc/fs/nfsd/v4_end_grace"
        self.run(f"echo Y > {switch} || grep -q Y {switch}")  # it may have ended in this very moment

    def prepare(self) -> None:
        settings = self.settings
        forget = f"rm -rf {STATE}/nfsdcld {STATE}/nfsdcltrack {STATE}/v4recovery" if self._forget else ":"
        # Bound onto itself: nfsd looks for another export than the pseudo root's only where something is mounted.
        exports = "\n".join(
            f"mkdir -p {path}; chmod 1777 {path}; mount --bind {path} {path}; exportfs -o {options} '*:{path}'"
            for path, options in settings.exports.items()
        )
        versions = "-V 3" if settings.nfs3 else "-N 3"
        self.prepare_run(f"""
            mkdir -p {ROOT}; mount -t ext4 -o noatime /dev/ubda {ROOT}
            mount -t ext4 -o noatime,sync /dev/ubdb {STATE}
            {forget}
            mkdir -p {STATE}/nfsdcld {STATE}/nfsdcltrack {STATE}/v4recovery {STATE}/sm {STATE}/sm.bak
            chown statd {STATE}/sm {STATE}/sm.bak
            : > {STATE}/etab; : > {STATE}/rmtab
            mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
            mount -t nfsd nfsd /proc/fs/nfsd
            echo {int(self.leases)} > /proc/sys/fs/leases-enable
            nfsdcld
            {self._start_nfs3() if settings.nfs3 else ":"}
            exportfs -o ro,fsid=0,insecure,no_subtree_check '*:{ROOT}'
            {exports}
            rpc.mountd {versions}
            echo {settings.lease} > /proc/fs/nfsd/nfsv4leasetime
            echo {settings.grace} > /proc/fs/nfsd/nfsv4gracetime
            rpc.nfsd {versions} -V 4.1 -V 4.2 4
            {"echo Y > /proc/fs/lockd/nlm_end_grace" if settings.nfs3 and self.boots == 1 else ":"}
        """)

    def _start_nfs3(self) -> str:
        # lockd's own grace period of 50 s delays NFSv4 locks as well; it is never skipped, not even without clients
        # to wait for.
        grace = f"modprobe lockd; echo {self.settings.grace} > /proc/sys/fs/nfs/nlm_grace_period"
        return f"rpcbind -w; rpc.statd; {grace}"


def make_image(path: Path, size: str) -> None:
    """Create a sparse ext4 image."""
    subprocess.run(["truncate", "-s", size, path], check=True)
    command = ["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(path)]
    subprocess.run(command, check=True, capture_output=True)
