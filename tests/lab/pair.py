"""A pair of servers for high availability: two guests, one data image, one state image, one address that moves.

    pair = lab.pair()
    a.mount(pair)
    pair.move()                          planned, in the right order: the clients reclaim at the other node
    pair.move(scope="")                  the other node serves under its own name
    pair.move(state=False)               ... without the recovery database
    pair.move(unlock_first=True)         unlock_filesystem while the clients are connected
    pair.move(announce=False)            no gratuitous ARP
    pair.reboot()                        the active node dies, the other one takes over

The order that keeps locks: address down, unexport, unlock, stop, unmount; then mount, grace, address up, its
gratuitous ARP. Nothing but that order keeps the two kernels from mounting an image at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from tests.lab.errors import Result
from tests.lab.nfs import EXPORT, ROOT, STATE, NfsServer

#: what both nodes call themselves to NFS clients: server_owner and scope (RFC 8881, 2.10.4) are nfsd's node name
SCOPE: Final = "nas"


class PairNode(NfsServer):
    """One of the two. It boots as the one that waits."""

    def prepare(self) -> None:
        self.prepare_run("""
            mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
            mount -t nfsd nfsd /proc/fs/nfsd
        """)

    def take(self, address: str, scope: str, state: bool, announce: bool) -> None:
        """Serve. scope: its name to clients, "" for its own. state: with the pair's recovery database."""
        settings = self.settings
        exports = "\n".join(
            f"mkdir -p {path}; chmod 1777 {path}; mount --bind {path} {path}; exportfs -o {options} '*:{path}'"
            for path, options in settings.exports.items()
        )
        self.run(f"""set -e
            mkdir -p {ROOT}; mount -t ext4 -o noatime /dev/ubda {ROOT}
            {f"mount -t ext4 -o noatime,sync /dev/ubdb {STATE}" if state else f"rm -rf {STATE}/*"}
            mkdir -p {STATE}/nfsdcld {STATE}/nfsdcltrack {STATE}/v4recovery
            : > {STATE}/etab; : > {STATE}/rmtab
            nfsdcld
            exportfs -o ro,fsid=0,insecure,no_subtree_check '*:{ROOT}'
            {exports}
            rpc.mountd -N 3 -V 4.1 -V 4.2
            echo {settings.lease} > /proc/fs/nfsd/nfsv4leasetime
            echo {settings.grace} > /proc/fs/nfsd/nfsv4gracetime
            unshare --uts sh -ec 'hostname {scope or self.name}; exec rpc.nfsd -N 3 -V 4.1 -V 4.2 4'
            ip addr add {address}/24 dev vec0
            {f"busybox arping -q -U -c 2 -I vec0 {address}" if announce else ":"}
        """, 30)  # fmt: skip

    def give(self, address: str, unlock_first: bool) -> None:
        """Stop serving, in the right order; unlock_first: as a resource agent does that unlocks what it unexports."""
        unlock = f"echo {EXPORT} > /proc/fs/nfsd/unlock_filesystem"
        folders = " ".join(self.settings.exports)
        self.run(f"""set -e
            {f"{unlock}; sleep 3" if unlock_first else ":"}
            ip addr del {address}/24 dev vec0
            exportfs -ua; exportfs -f
            {":" if unlock_first else unlock}
            rpc.nfsd 0
            pkill -x nfsdcld; pkill -x rpc.mountd
            while pgrep -x 'nfsdcld|rpc.mountd'; do sleep 0.1; done
            sync
            umount {folders} {ROOT}
            ! mountpoint -q {STATE} || umount {STATE}
            mountpoint -q {STATE} || mount -t tmpfs -o mode=755 tmpfs {STATE}
        """, 40)  # fmt: skip


class Pair:
    """The two nodes as one storage; all that is asked of it goes to the node that serves."""

    host_setting = ""

    def __init__(self, nodes: Sequence[PairNode], address: str) -> None:
        self.active, self._other = nodes
        self.address = address
        self._take()

    def move(self, scope: str = SCOPE, state: bool = True, unlock_first: bool = False, announce: bool = True) -> None:
        """Let the other node serve, as planned maintenance does."""
        self.active.give(self.address, unlock_first)
        self.active, self._other = self._other, self.active
        self._take(scope, state, announce)

    def reboot(self, down: float = 0.0, forget: bool = False) -> None:
        """Let the active node die and, `down` seconds later, the other one take over; the dead one boots and waits.

        forget: without the recovery database.
        """
        self.active.power_cut()
        time.sleep(down)
        self.active, self._other = self._other, self.active
        self._take(state=not forget)
        self._other.boot()

    def _take(self, scope: str = SCOPE, state: bool = True, announce: bool = True) -> None:
        self.active.take(self.address, scope, state, announce)

    def source(self, export: str = EXPORT, nfs3: bool = False) -> str:
        assert not nfs3
        return f"{self.address}:{export.removeprefix(ROOT)}"

    def run(self, command: str | Sequence[str], timeout: float = 10.0, check: bool = True) -> Result:
        return self.active.run(command, timeout, check)

    def get(self, path: str, timeout: float = 30.0) -> bytes:
        return self.active.get(path, timeout)

    def locks(self) -> str:
        return self.active.locks()

    def in_grace(self) -> bool:
        return self.active.in_grace()
