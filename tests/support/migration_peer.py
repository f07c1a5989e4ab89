"""Private libvirt hosts on this machine between which running VMs migrate.

::

    with MigrationPeer("a") as a, MigrationPeer("b") as b:
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


class MigrationPeer(LibvirtHost):
    """A named host without a network. libvirt and QEMU reach each other by sockets in the peer's folder."""

    def __init__(self, name: str, guarded: bool = True) -> None:
        self._name = name
        super().__init__(guarded)

    def _more_furniture(self) -> str:
        return _FURNITURE.format(name=self._name, folder=self.folder)

    def migrate(self, domain: str, target: MigrationPeer) -> Answer:
        """Migrate a running domain. ``--unsafe``: libvirt cannot tell that a local folder is shared storage."""
        there = target.folder / "libvirt"
        uris = [f"qemu+unix:///system?socket={there}/libvirt-sock", f"unix://{there}/migration.sock"]
        return self.virsh("migrate", "--live", "--unsafe", domain, *uris)
