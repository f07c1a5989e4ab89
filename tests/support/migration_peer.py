"""Corners of this machine between which VMs migrate while they run: each with a name, and sockets where all find them.

::

    with Neighbour("a") as a, Neighbour("b") as b:
        a.migrate("web", b)
"""

from __future__ import annotations

from tests.support.guard import Answer
from tests.support.libvirt_host import LibvirtHost

_FURNITURE = """
hostname {name}
printf 'host_uuid = "%s"\\n' $(cat /proc/sys/kernel/random/uuid) >> /etc/libvirt/libvirtd.conf
mkdir -p {folder}/libvirt
chmod 777 {folder}/libvirt
ln -s {folder}/libvirt /run/libvirt
"""


class Neighbour(LibvirtHost):
    """They have no network: both libvirt and QEMU reach the other one by a socket in its folder."""

    def __init__(self, name: str, guarded: bool = True) -> None:
        self._name = name
        super().__init__(guarded)

    def _more_furniture(self) -> str:
        return _FURNITURE.format(name=self._name, folder=self.folder)

    def migrate(self, domain: str, target: Neighbour) -> Answer:
        """Live. libvirt cannot see that their storage is shared, as it is one folder of this machine."""
        there = target.folder / "libvirt"
        uris = [f"qemu+unix:///system?socket={there}/libvirt-sock", f"unix://{there}/migration.sock"]
        return self.virsh("migrate", "--live", "--unsafe", domain, *uris)
