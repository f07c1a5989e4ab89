"""Read what Proxmox leaves in /etc/pve: configurations. Never a call to Proxmox itself.

::

    vm = read_vm("/etc/pve", "100", node_name())     # the VM of this node: PveVm

/etc/pve is a file system in user space (pmxcfs): it may hang with its cluster. Nothing that fences needs it.
"""

from __future__ import annotations

import os

from vmguard.core.sources.pve_config import VmConfig, is_vmid, parse_config
from vmguard.core.sources.pve_plan import PveVm, plan_vm
from vmguard.core.sources.pve_storage import Storages, parse_storages
from vmguard.errors import PlanError, StorageTimeout, VmguardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG_DIR = "/etc/pve"
RUN_DIR = "/run/qemu-server"

_MAX_BYTES = 1 << 20


def node_name() -> str:
    """Return this node's name in the cluster: the host's without its domain (PVE::INotify, nodename)."""
    return os.uname().nodename.partition(".")[0]


# --- /etc/pve -------------------------------------------------------------------------------------------------------


def require_answer(config_dir: str, seconds: float) -> None:
    """Raise VmguardError unless the cluster's files can be read within ``seconds``, as a child of ours finds out.

    They are a FUSE file system's (pmxcfs). Whoever reads from one that hangs ends by SIGKILL alone.
    """
    from vmguard.adapters.linux import bounded_child

    try:
        bounded_child.run(lambda: nodes(config_dir), seconds, f"reading {config_dir}")
    except StorageTimeout:
        raise VmguardError(
            f"{config_dir} does not answer within {seconds:.0f} s", "systemctl status pve-cluster"
        ) from None


def config_path(config_dir: str, vmid: str, node: str) -> str:
    return os.path.join(config_dir, "nodes", node, "qemu-server", f"{vmid}.conf")


def nodes(config_dir: str) -> list[str]:
    """Return the cluster's nodes; none if there is no cluster."""
    try:
        return sorted(os.listdir(os.path.join(config_dir, "nodes")))
    except OSError:
        return []


def owners(config_dir: str, vmid: str = "") -> Iterator[tuple[str, str]]:
    """Yield (VMID, node) of every VM of the cluster, or of one; the folder of a node owns its VMs."""
    for node in nodes(config_dir):
        try:
            names = sorted(os.listdir(os.path.join(config_dir, "nodes", node, "qemu-server")))
        except OSError:
            continue
        for name in names:
            found = name.removesuffix(".conf")
            if name.endswith(".conf") and is_vmid(found) and vmid in ("", found):
                yield found, node


def read_config(config_dir: str, vmid: str, node: str) -> VmConfig:
    """Read a VM's configuration. Raises BadInput, and PlanError if there is no such VM on that node."""
    path = config_path(config_dir, vmid, node)
    return parse_config(contents(path, f"VM {vmid}"), vmid)


def read_storages(config_dir: str) -> Storages:
    """Read the storages. A cluster without storage.cfg has ``local`` alone. Raises BadInput or PlanError."""
    path = os.path.join(config_dir, "storage.cfg")
    return parse_storages(contents(path, "the storages") if os.path.lexists(path) else b"")


def read_vm(config_dir: str, vmid: str, node: str, source: str = "") -> PveVm:
    """Read what a start on that node opens. Raises BadInput or PlanError.

    ``source``: the node that it migrates from, which owns its configuration until the switch (QemuServer.pm, vm_start).
    """
    return plan_vm(read_config(config_dir, vmid, source or node), read_storages(config_dir), node)


def contents(path: str, what: str) -> bytes:
    """Read a small file. Raises PlanError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            pieces: list[bytes] = []
            while sum(map(len, pieces)) <= _MAX_BYTES and (piece := os.read(fd, 1 << 16)):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)
    except OSError as problem:
        hint = "is pve-cluster running, and is this the VM's node? qm list" if path.startswith(CONFIG_DIR) else ""
        raise PlanError(f"{what}: cannot read {path!r}: {problem.strerror}", hint, path) from problem
