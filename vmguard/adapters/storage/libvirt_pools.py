"""Find a pool volume's path in libvirt's own files: a hook must not ask libvirt, which waits for it.

::

    kind, place = Pools().locate("images", "a.qcow2", "disk vda")    # ("file", "/srv/images/a.qcow2")

/run/libvirt/storage/POOL.xml describes an active pool, /etc/libvirt/storage/POOL.xml a defined one. libvirt itself
refuses to start a VM from an inactive pool, so the second only serves ``vmguard plan`` and the moments before.
"""

from __future__ import annotations

import os

from vmguard.core.locks.plan import BLOCK, NETWORK, OTHER, on_block_device
from vmguard.core.sources.domain_xml import FILE
from vmguard.core.sources.xml_tree import read_tree
from vmguard.errors import BadInput, PlanError

DIRECTORIES = ("/run/libvirt/storage", "/etc/libvirt/storage")

_MAX_BYTES = 1 << 20
_WANTED = {"name": None, "target": frozenset({"path"})}
_ON_FILES = frozenset(("dir", "fs", "netfs", "vstorage"))
_ON_BLOCKS = frozenset(("logical", "disk", "iscsi", "scsi", "mpath", "zfs"))
_ON_NETWORK = frozenset(("rbd", "sheepdog", "gluster", "iscsi-direct"))


class UnknownPool(PlanError):
    """Nothing describes the pool: libvirt does not know it either, and cannot find a disk in it."""


class Pools:
    """libvirt's storage pools, each read once."""

    __slots__ = ("_known", "directories")

    def __init__(self, directories: tuple[str, ...] = DIRECTORIES) -> None:
        self.directories = directories
        self._known: dict[str, tuple[str, str]] = {}

    def locate(self, pool: str, volume: str, what: str) -> tuple[str, str]:
        """Return FILE and the path, or a kind of Unguarded and the reason. Raises PlanError (UnknownPool)."""
        _check_name(pool, "pool", what)
        _check_name(volume, "volume", what)
        kind, target = self._pool(pool, what)
        place = f"volume {volume!r} of the {kind} pool {pool!r}"
        if kind in _ON_FILES:
            if not target.startswith("/"):
                raise PlanError(f"{what}: pool {pool!r} has no target directory: its path is {target[:80]!r}")
            return FILE, os.path.join(target, volume)
        if kind in _ON_BLOCKS:
            return BLOCK, on_block_device(place)
        if kind in _ON_NETWORK:
            return NETWORK, f"{place} is reached over the network: no file to lock"
        return OTHER, f"{place} is of a kind that is not known here"

    def _pool(self, pool: str, what: str) -> tuple[str, str]:
        """Return type and target path of a pool."""
        known = self._known.get(pool)
        if known is None:
            known = self._known[pool] = self._read(pool, what)
        return known

    def _read(self, pool: str, what: str) -> tuple[str, str]:
        for directory in self.directories:
            path = os.path.join(directory, pool + ".xml")
            try:
                xml = _contents(path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                raise PlanError(f"{what}: cannot read {path!r}: {problem.strerror}", path=path) from problem
            return _parse(xml, pool, path, what)
        where = " nor ".join(self.directories)
        raise UnknownPool(
            f"{what}: storage pool {pool!r} is not known: neither {where} describes it",
            f"virsh pool-info {pool} shows whether libvirt knows it on this host",
        )


def _contents(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        pieces = []
        total = 0
        while total <= _MAX_BYTES and (piece := os.read(fd, 1 << 16)):
            pieces.append(piece)
            total += len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _parse(xml: bytes, pool: str, path: str, what: str) -> tuple[str, str]:
    if len(xml) > _MAX_BYTES:
        raise PlanError(f"{what}: {path!r} is larger than {_MAX_BYTES} bytes", path=path)
    try:
        root = read_tree(xml, "pool", _WANTED, wrappers=("poolstate",))
    except BadInput as problem:
        raise PlanError(f"{what}: {path!r}: {problem.message}", path=path) from problem
    name, target = root.child("name"), root.first("target/path")
    if name is None or name.text != pool:
        found = "no pool" if name is None else f"pool {name.text[:80]!r}"
        raise PlanError(f"{what}: {path!r} describes {found}, not pool {pool!r}", path=path)
    return root.get("type"), "" if target is None else target.text


def _check_name(name: str, kind: str, what: str) -> None:
    """Refuse what is not one name: it becomes part of a path. Raises PlanError."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise PlanError(f"{what}: {name[:80]!r} is not the name of a storage {kind}")
