"""Looks at Proxmox VE: its version, the hookscript, and the VMs of this node without it."""

from __future__ import annotations

import os
import re
from typing import Any

from vmguard.adapters.linux.bounded_child import Child
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.adapters.proxmox import snippets
from vmguard.config import Config
from vmguard.core.reports.pve_audit import HOOK
from vmguard.doctor.facts import ProxmoxFacts
from vmguard.errors import VmguardError

_PACKAGES = "/var/lib/dpkg/status"


def look(config: Config, seconds: float, packages: str = _PACKAGES) -> ProxmoxFacts:
    """Look at Proxmox VE, if it is installed. /etc/pve (pmxcfs, FUSE) may not answer: it is read in a child."""
    version = _version(packages)
    if version is None:
        return ProxmoxFacts()
    script = snippets.place(config.proxmox.snippets_dir)
    child = Child(lambda: _without_hook(config.proxmox.config_dir), seconds, "the VMs of this node were read")
    try:
        found: list[Any] = child.result()
    except VmguardError as problem:
        return ProxmoxFacts(version, problem=problem.message)
    return ProxmoxFacts(
        version,
        script_problem=_script(script),
        unhooked=tuple((str(vmid), str(name)) for vmid, name, hooked in found if not hooked),
        hooked=sum(hooked for _, _, hooked in found),
    )


def _version(packages: str) -> tuple[int, ...] | None:
    """Return the version of the package pve-manager; None where it is not installed."""
    try:
        with open(packages, encoding="utf-8", errors="replace") as stream:
            about = stream.read()
    except OSError:
        return None
    found = re.search(r"^Package: pve-manager\n(?:\S.*\n| .*\n)*?Version: (\d+)\.(\d+)(?:\.(\d+))?", about, re.M)
    if found is None or "Status: install ok installed" not in found[0]:
        return None
    return tuple(int(number) for number in found.groups() if number is not None)


def _script(path: str) -> str:
    if not os.path.exists(path):
        return f"{path} is not there"
    return "" if os.access(path, os.X_OK) else f"{path} is not executable"


def _without_hook(config_dir: str) -> list[tuple[str, str, bool]]:
    """Return (VMID, name, has the hookscript) of every VM of this node but its templates, which never run."""
    node, found = proxmox_host.node_name(), []
    for vmid, owner in proxmox_host.owners(config_dir):
        if owner != node:
            continue
        vm = proxmox_host.read_config(config_dir, vmid, node)
        if not vm.is_template:
            found.append((vmid, vm.name, vm.options.get("hookscript", "") == HOOK))
    return found
