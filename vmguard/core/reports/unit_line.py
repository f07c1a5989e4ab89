"""The one line for `systemctl status`: the worst first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.words import printable

#: names that are listed; of more VMs the number is said
_MAX_NAMES = 3
#: characters of a name, and of the line: systemd takes it as it is
_MAX_NAME, _MAX_LINE = 40, 400


class VmLine(NamedTuple):
    """What the line needs of a VM."""

    name: str
    #: of its claim
    state: str
    frozen: bool
    fencing: bool


def unit_line(vms: Sequence[VmLine], fenced: Sequence[FencedVm], maintenance: str | None, config_broken: bool) -> str:
    """Return the line. ``maintenance``: why nothing is frozen or fenced; None when the watchdog acts."""
    bad = [
        _count([vm.name for vm in vms if vm.fencing], "being killed (fenced)"),
        _count([vm.name for vm in vms if vm.state == "conflict"], "in conflict with another host"),
        _count([vm.name for vm in vms if vm.frozen and vm.state != "conflict"], "frozen"),
        _count([vm.name for vm in fenced], "killed (fenced) in the last day"),
    ]
    parts = [f"CRITICAL: {', '.join(filter(None, bad))}; vmguard status"] if any(bad) else []
    if maintenance is not None:
        parts.append(f"DISARMED, no VM is frozen or fenced: {_shown(maintenance)}")
    if config_broken:
        parts.append("the configuration has a mistake, the last good one is in force: vmguard config check")
    parts.append(f"guarding {len(vms)} VM{'s' * (len(vms) != 1)}")
    return "; ".join(parts)[:_MAX_LINE]


def _count(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    listed = ", ".join(map(_shown, names)) if len(names) <= _MAX_NAMES else ""
    return f"{len(names)} VM{'s' * (len(names) != 1)} {what}" + (f" ({listed})" if listed else "")


def _shown(text: str) -> str:
    return printable(text[:_MAX_NAME])
