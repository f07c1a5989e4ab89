"""The client role: a host that mounts the storage and runs VMs."""

from __future__ import annotations

from typing import Final

from tests.lab.errors import LabError
from tests.lab.guest import Guest, Hardware
from tests.lab.libvirt import Libvirt
from tests.lab.nfs import EXPORT, Storage
from tests.lab.qemu import Vm
from tests.lab.space import Space

# What NFSv3 needs on a client for its locks. Set up as packages would, on the guest's empty /var/lib/nfs.
START_STATD: Final = """
    pidof rpc.statd && exit
    mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak
    chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak
    pidof rpcbind || rpcbind -w
    rpc.statd
"""


class Hypervisor(Guest):
    """A host for VMs; with libvirt_user a real libvirtd runs in it (as root), whose QEMUs run as that user."""

    def __init__(self, space: Space, hardware: Hardware, libvirt_user: str | None = None) -> None:
        super().__init__(space, hardware)
        self._libvirt = Libvirt(self, libvirt_user) if libvirt_user else None

    @property
    def libvirt(self) -> Libvirt:
        if self._libvirt is None:
            raise LabError(f"{self.name}: was made without libvirt=True")
        return self._libvirt

    def mount(
        self,
        server: Storage,
        target: str = EXPORT,
        options: str = "vers=4.2,hard",
        export: str = EXPORT,
        timeout: float = 30.0,
    ) -> None:
        """Mount the server's export on `target`, created if needed; `timeout` in seconds, including a grace period."""
        nfs3 = "vers=3" in options
        if nfs3:
            self.run(START_STATD)
        if server.host_setting:
            self.run(server.host_setting)
        self.run(["mkdir", "-p", target])
        self.run(["mount", "-t", "nfs", "-o", options, server.source(export, nfs3), target], timeout)

    def start_vm(
        self, disk: str, format: str = "qcow2", locking: str = "auto", cache: str = "none", memory: int = 16
    ) -> Vm:
        """Start QEMU by hand with the heartbeat VM on a disk; see qemu.Vm. memory: MiB.

        locking: QEMU's own image locks, "off" as on Proxmox, "auto" as elsewhere.
        """
        return Vm.start(self, disk, format, locking, cache, memory)

    def prepare(self) -> None:
        if self._libvirt is not None:
            self._libvirt.prepare()
