"""Up to where a person has acknowledged the history: fences until then are not shown any more.

A file beside the history, which ends with the boot like that one.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import clock, host_identity, statefile
from vmguard.core.reports import fenced_vms
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.daemon.report import history

FILE = "acknowledged.json"


def acknowledge(run_dir: str) -> None:
    """Acknowledge all that the history holds by now. Raises OSError."""
    state = {"boot": host_identity.boot_id(), "boottime": clock.boottime(), "at": clock.wall()}
    statefile.write(os.path.join(run_dir, FILE), state)


def fenced_lately(run_dir: str) -> list[FencedVm]:
    """Return the VMs that were killed in the last day, and that nobody has acknowledged."""
    return fenced_vms.lately(history.read(run_dir), clock.boottime(), until(run_dir))


def until(run_dir: str) -> float:
    """Return up to when the history is acknowledged, in seconds on CLOCK_BOOTTIME; 0 if nothing of it is."""
    state = statefile.read(os.path.join(run_dir, FILE)) or {}
    boottime = state.get("boottime")
    same = state.get("boot") == host_identity.boot_id()
    return float(boottime) if same and isinstance(boottime, int | float) else 0.0
