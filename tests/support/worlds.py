"""The worlds that vmguard is tried in: a kernel for the hosts, a kind of server; and a small site built in one of them.

    with Lab() as lab:
        site = Site(lab, World("6.12", "ganesha"))
        site.a, site.b      guarded hosts
        site.bare           a host without vmguard, for the controls

A new world is a line in SERVERS or CLIENTS. What is tried in it stands in world_rows.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.lab import Lab, LabUnavailable, Storage
from tests.lab.kernels import kernel
from tests.support.guarded_guests import SHARE, Guarded, Guest

LEASE: Final = 10
#: seconds; longer than a client of kernel 6.1 needs to notice that its connection is dead
GRACE: Final = 20
#: the VMs that only their pin protects: nobody freezes or fences them
SHIELDED: Final = ("shield-alive", "shield-killed")
_ALONE: Final = "{on_at_risk: ignore, on_lost: ignore}"
CONFIG: Final = "hook: {wait: 0s}\nvms:\n" + "".join(f"  {name}: {_ALONE}\n" for name in SHIELDED)

#: kernels of the hosts, as tests/lab/kernels.py knows them
CLIENTS: Final = ("own", "6.12", "testing")
#: how a server of each kind is made
SERVERS: Final[dict[str, Callable[[Lab], Storage]]] = {
    "own": lambda lab: lab.nfs_server(lease=LEASE, grace=GRACE, kernel="own"),
    "6.12": lambda lab: lab.nfs_server(lease=LEASE, grace=GRACE, kernel="6.12"),
    "testing": lambda lab: lab.nfs_server(lease=LEASE, grace=GRACE, kernel="testing"),
    "ganesha": lambda lab: lab.nfs_server(lease=LEASE, grace=GRACE, kernel="own", ganesha=True),
    "pair": lambda lab: lab.pair(lease=LEASE, grace=GRACE, kernel="own"),
}


@dataclass(frozen=True)
class World:
    """Where a site stands: the kernel of its hosts, the kind of its server."""

    client: str
    server: str

    def __str__(self) -> str:
        return f"{self.client} on {self.server}"

    def problem(self) -> str:
        """Return why this machine has no such world, empty if it has."""
        try:
            for name in {self.client, self.server} & {*CLIENTS}:
                kernel(name)
        except LabUnavailable as error:
            return str(error)
        return ""


WORLDS: Final = [World(client, server) for server in SERVERS for client in CLIENTS]


class Site:
    """A server, two guarded hosts, and one without vmguard, all of one world."""

    def __init__(self, lab: Lab, world: World, server: Storage | None = None) -> None:
        """Build it. server: one that is made already, of the world's kind."""
        self.lab = lab
        self.world = world
        self.server = server or SERVERS[world.server](lab)
        hosts = [lab.hypervisor(name, kernel=world.client) for name in ("hyp-a", "hyp-b", "hyp-c")]
        self.a, self.b = (Guarded(host, CONFIG) for host in hosts[:2])
        self.bare = hosts[2]
        for host in hosts:
            host.mount(self.server)
        for node in (self.a, self.b):
            node.start_daemon()

    def releases(self) -> tuple[str, str]:
        """Return what the hosts and the server really are: their releases of kernel or NFS-Ganesha."""
        client, server = (one.run(["uname", "-r"]).stdout.strip() for one in (self.bare, self.server))
        if self.world.server == "pair":
            server = f"HA pair, {server}"
        elif self.world.server == "ganesha":
            version = self.server.run("ganesha.nfsd -v | grep -o 'V[0-9.]*' | head -1").stdout.strip()
            server = f"NFS-Ganesha {version.removeprefix('V')} on {server}"
        return client, server

    def locked(self, path: str) -> bool:
        """Return whether the server itself knows an exclusive lock on a file."""
        inode = self.server.run(["stat", "-c", "%i", path]).stdout.strip()
        lines = [line.split() for line in self.server.locks().splitlines()]
        kinds = {"OFDLCK"} if self.world.server == "ganesha" else {"POSIX"}
        return any(w[1] in kinds and w[3] == "WRITE" and w[5].endswith(f":{inode}") for w in lines if len(w) == 8)

    def take_over(self, guest: Guest, seconds: float = 4 * LEASE) -> float:
        """Claim a VM's disks on host B as soon as the server lets it; return how long that took.

        Raises AssertionError after `seconds`.
        """
        began = time.monotonic()
        while self.b.claim(guest).returncode:
            assert time.monotonic() - began < seconds, f"B never got {guest.paths[0]}"
        return time.monotonic() - began

    def let_go(self, guest: Guest) -> None:
        """End what take_over() began."""
        self.b.hook(guest, "release")
        self.b.wait_released(guest, 30)

    def requests(self, operation: str) -> int:
        """Return how many requests of a kind host A has sent for its mount (its own count, in mountstats)."""
        ours = False
        for line in self.a.host.get("/proc/self/mountstats").decode().splitlines():
            if line.startswith("device "):
                ours = f" mounted on {SHARE} " in line
            elif ours and line.strip().startswith(f"{operation}:"):
                return int(line.split()[1])
        return 0
