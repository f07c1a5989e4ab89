"""The state of this host for its health line (core/reports/health.py), from what the daemon says. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vmguard.core.locks.claim_states import LIVING
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.health import (
    Finding,
    HostState,
    Maintenance,
    MountState,
    VmState,
    few_descriptors,
    undelivered,
)
from vmguard.core.reports.vm_report import is_unlocked
from vmguard.query.answers import HealthAnswer, Known, VmAnswer

_LOST = "lost"


def of(known: Known, fenced: Sequence[FencedVm] = (), more: Sequence[Finding] = ()) -> HostState:
    """Return the state. ``fenced``: VMs that were killed lately. ``more``: what the daemon does not know."""
    health = known.health
    mode, files = health.disarmed, health.descriptors
    few = [few_descriptors(files.used, files.limit)] if files is not None and files.alarm else []
    failing = [(told.target, told.failing_since) for told in health.notify if told.problem]
    return HostState(
        vms=[_vm(vm) for vm in known.vms],
        mounts=_mounts(health),
        fenced=fenced,
        maintenance=Maintenance(mode.seconds, mode.reason, mode.by) if mode is not None else None,
        config_broken=bool(health.config_problems),
        daemon_problem=known.problem,
        more=[*few, *undelivered(failing), *more],
    )


def _vm(vm: VmAnswer) -> VmState:
    locks = vm.watch.locks if vm.watch is not None else ()
    lost = any(lock.verdict == _LOST for lock in locks)
    return VmState(
        name=vm.name,
        state=vm.state,
        uuid=vm.uuid,
        frozen=vm.frozen,
        fencing=bool(vm.fencing),
        since=vm.frozen_since,
        why=vm.watch.why if vm.watch is not None else "",
        mounts=tuple(sorted({lock.mount for lock in locks})),
        held=bool(vm.stopped),
        replaced=any(file.replaced for file in vm.files),
        unlocked=lost or is_unlocked((file.guard for file in vm.files), vm.state in LIVING),
        beside=next((file.unpinned_reason for file in vm.files if file.unpinned_reason), ""),
        incoming=vm.incoming,
    )


def _mounts(health: HealthAnswer) -> list[MountState]:
    return [
        MountState(mount.mount, mount.source, mount.phase, mount.lease_age, mount.freeze_in) for mount in health.mounts
    ]
