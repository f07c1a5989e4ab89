"""The lab: a network with guests on it, built in seconds and removed without a trace.

    with Lab() as lab:
        srv = lab.nfs_server(lease=10, grace=10)
        a = lab.hypervisor("hyp-a")
        b = lab.hypervisor("hyp-b")
        a.mount(srv)
        lab.partition(a)

Guests boot in the background as soon as they are named. Several labs may stand side by side, also in one process.
The console and the log of commands of each guest are kept (VMGUARD_LAB_LOGS, else the lab's directory) when the
`with` block fails or keep_logs() was called; else they are removed.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar, Literal, Self, TypeVar

from tests.lab import kernels
from tests.lab.ganesha import GaneshaServer
from tests.lab.guest import Guest, Hardware
from tests.lab.hypervisor import Hypervisor
from tests.lab.net import FLOATING, Network
from tests.lab.nfs import EXPORT, NfsServer, ServerSettings
from tests.lab.pair import Pair, PairNode
from tests.lab.space import Space

OPTIONS = "rw,sync,insecure,no_subtree_check"
G = TypeVar("G", bound=Guest)


class Lab:
    living: ClassVar[weakref.WeakSet[Lab]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.space = Space()
        self.guests: list[Guest] = []
        self._keep_logs = False
        Lab.living.add(self)
        try:
            self._network = Network(self.space)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.keep_logs()
        self.close()

    def nfs_server(
        self,
        name: str = "storage",
        lease: int = 10,
        grace: int = 10,
        mem: str = "256M",
        mac: str | None = None,
        root_squash: bool = False,
        more_exports: Mapping[str, str] | None = None,
        nfs3: bool = False,
        kernel: str | None = None,
        ganesha: bool = False,
    ) -> NfsServer:
        """A storage server. lease, grace: seconds. mac="random": another one at each boot.

        more_exports: folder below /srv -> export options, besides /srv/vm.
        kernel: another than the lab's, see kernels.py. ganesha: NFS-Ganesha serves, in user space, and not the kernel.
        """
        squash = "root_squash" if root_squash else "no_root_squash"
        folders = {EXPORT: f"{OPTIONS},{squash}", **(more_exports or {})}
        exports = {path: f"{options},fsid={n}" for n, (path, options) in enumerate(folders.items(), 1)}
        images = [self.space.directory / f"{name}-{part}.img" for part in ("data", "state")]
        port = self._network.add_port(mac == "random")
        modules = ("ext4",) if ganesha else ("nfsd", "ext4")
        hardware = Hardware(name, name, port, mem, modules, images, kernel=kernels.of_server(kernel))
        kind = GaneshaServer if ganesha else NfsServer
        return self._boot(kind(self.space, hardware, ServerSettings(lease, grace, exports, nfs3)))

    def pair(self, lease: int = 10, grace: int = 20, kernel: str | None = None) -> Pair:
        """Two servers with one pair of images and one address that moves. kernel: see kernels.py."""
        images = [self.space.directory / f"pair-{part}.img" for part in ("data", "state")]
        settings = ServerSettings(lease, grace, {EXPORT: f"{OPTIONS},no_root_squash,fsid=1"})
        nodes = []
        for name in ("node-1", "node-2"):
            port, own = self._network.add_port(False), kernels.of_server(kernel)
            hardware = Hardware(name, name, port, "256M", ("nfsd", "ext4"), images, shared=True, kernel=own)
            nodes.append(self._boot(PairNode(self.space, hardware, settings)))
        return Pair(nodes, FLOATING)

    def hypervisor(
        self,
        name: str,
        mem: str | None = None,
        hostname: str | None = None,
        mac: str | None = None,
        libvirt: bool = False,
        libvirt_user: str = "root",
        init: Literal["agent", "systemd"] = "agent",
        kernel: str | None = None,
    ) -> Hypervisor:
        """A host for VMs. mem: "256M", with libvirt "1G" when None.

        hostname: its own name for itself, to make it a clone of another host. mac="random": another one at each boot.
        libvirt: a libvirtd runs in it; libvirt_user: the user that its QEMUs run as ("libvirt-qemu" as Debian has it).
        init: "systemd" for a guest whose process 1 is systemd, for unit files of our own; nothing else is started.
        kernel: another than the lab's, see kernels.py.
        """
        port = self._network.add_port(mac == "random")
        memory = mem or ("1G" if libvirt else "256M")
        own = kernels.kernel(kernel)
        hardware = Hardware(name, hostname or name, port, memory, ("nfsv4",), init=init, kernel=own)
        return self._boot(Hypervisor(self.space, hardware, libvirt_user if libvirt else None))

    def start(self, *guests: Guest) -> None:
        """Wait until these guests are up; all guests if none is named."""
        for guest in guests or self.guests:
            guest.wait()

    def partition(self, *guests: Guest) -> None:
        """Pull the guests' cables: nothing comes in or goes out, and neither side is notified."""
        for guest in guests:
            self._network.disconnect(guest.hardware.port)

    def heal(self, *guests: Guest) -> None:
        for guest in guests:
            self._network.connect(guest.hardware.port)

    def keep_logs(self) -> None:
        """Keep the guests' consoles and logs when the lab ends."""
        self._keep_logs = True

    def close(self) -> None:
        Lab.living.discard(self)
        try:
            for guest in self.guests:
                guest.power_cut()
        finally:
            self.space.close(self._keep_logs)
        if self._keep_logs:
            print(f"lab: consoles and logs kept in {self.space.logs}")

    def _boot(self, guest: G) -> G:
        self.guests.append(guest)
        guest.boot()
        return guest
