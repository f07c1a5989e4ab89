"""Which files the start of a VM would lock: its configuration, and the image headers on the share.

The headers are read in a child that is killed at its deadline.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.adapters.linux import bounded_child, mounts
from vmguard.adapters.storage.backing_chain import resolve
from vmguard.adapters.storage.files import ReadOnlyOpener
from vmguard.adapters.storage.libvirt_pools import Pools
from vmguard.core.locks.plan import EXCLUSIVE, OTHER_MOUNT, Plan, PlannedFile, Unguarded
from vmguard.core.sources.domain_xml import Domain, parse_domain
from vmguard.query import other_mounts

Folders = tuple[str, ...]


@dataclass(frozen=True)
class StartPlan:
    """The files that would be locked, and what of the VM's storage no lock covers: ``source`` and ``reason``."""

    files: list[PlannedFile]
    unguarded: list[dict[str, str]]

    def as_json(self) -> dict[str, object]:
        return {"files": [file.as_json() for file in self.files], "unguarded": self.unguarded}


def in_child(make: Callable[[], Plan], timeout: float) -> StartPlan:
    """Make a plan in a child, within ``timeout`` seconds.

    Raises StorageTimeout when that does not suffice, VmguardError with the message of what failed.
    """
    plan = bounded_child.run(lambda: make().as_json(), timeout, "reading the image headers")
    files = [PlannedFile(item["path"], item["mode"], item["role"], item["source"]) for item in plan["files"]]
    return StartPlan(files, plan["unguarded"])


def of_xml(xml: bytes, timeout: float, trusted: Folders = ()) -> StartPlan:
    """Plan a VM of libvirt from its domain XML. Raises as in_child. ``trusted``: storage.trusted_folders."""
    return in_child(functools.partial(_plan_xml, xml, trusted), timeout)


def of_domain(domain: Domain, timeout: float, trusted: Folders = ()) -> StartPlan:
    """Plan a VM whose configuration was parsed already. Raises as in_child. ``trusted``: storage.trusted_folders."""
    return in_child(functools.partial(plan_domain, domain, trusted), timeout)


def _plan_xml(xml: bytes, trusted: Folders = ()) -> Plan:
    return _with_mounts(parse_domain(xml, False), Pools(), trusted)


def plan_domain(domain: Domain, trusted: Folders) -> Plan:
    """Resolve the backing chains of a VM and return its plan. May hang with the share: only for a child."""
    return _with_mounts(domain, None, trusted)


def _with_mounts(domain: Domain, pools: Pools | None, trusted: Folders) -> Plan:
    resolved = resolve(domain, ReadOnlyOpener(trusted), pools)
    table = list(mounts.mounts())
    for file, planned in resolved.pairs():
        why = other_mounts.why_bare(file.real, table)
        if not why and planned.mode == EXCLUSIVE:
            why = other_mounts.why_of_path(file.real, table)
        if why:
            resolved.plan.unguarded.append(Unguarded(f"{planned.source} ({file.path})", why, OTHER_MOUNT))
    resolved.close()
    return resolved.plan
