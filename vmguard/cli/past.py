"""The history, for every command: from the daemon's file, or from the daemon itself for who may not read that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vmguard.adapters.linux import clock
from vmguard.core.reports import fenced_vms
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.daemon.report import acknowledged, history
from vmguard.query.answers import HealthAnswer
from vmguard.query.ask_daemon import DaemonQuery
from vmguard.query.places import Places


def may_read(run_dir: str) -> bool:
    """Return whether the daemon's files are ours to read, whether they are there or not."""
    return os.access(run_dir, os.X_OK, effective_ids=True) or not os.path.lexists(run_dir)


def entries(where: Places) -> list[dict[str, Any]]:
    """Return the entries of the history, the oldest first. Raises DaemonError when only the daemon could tell them."""
    if may_read(where.run_dir):
        return history.read(where.run_dir)
    with DaemonQuery(where.run_dir, where.timeout) as daemon:
        return daemon.history()


def fenced(where: Places, health: HealthAnswer) -> list[FencedVm]:
    """Return the VMs that were killed lately, and that nobody has acknowledged. Raises as ``entries``.

    ``health``: what the daemon says, for who may not read its files.
    """
    if may_read(where.run_dir):
        return acknowledged.fenced_lately(where.run_dir)
    return lately(entries(where), health)


def lately(past: list[dict[str, Any]], health: HealthAnswer | Mapping[str, Any]) -> list[FencedVm]:
    """Choose those VMs from a history that the daemon has sent, with what it says of its acknowledgement."""
    until = health.acknowledged if isinstance(health, HealthAnswer) else float(health.get("acknowledged") or 0.0)
    return fenced_vms.lately(past, clock.boottime(), until)
