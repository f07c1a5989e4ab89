"""The state of this host as the health line needs it (core/reports/health.py). It looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vmguard.core.locks.claim_states import LIVING
from vmguard.core.reports.health import Finding, HostState, Maintenance, VmState, few_descriptors, undelivered
from vmguard.core.reports.vm_report import is_unlocked
from vmguard.core.watchdog.machine import Watch
from vmguard.daemon.api.watchdog_status import WatchdogStatus
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.report import acknowledged
from vmguard.daemon.report.notices import Notices
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.daemon.watch.maintenance_mode import MaintenanceMode


class HostView:
    """The state, made anew from the daemon's own objects at each call."""

    def __init__(
        self,
        run_dir: str,
        vms: Callable[[], Iterable[GuardedVm]],
        watch: Watch,
        watchdog: WatchdogStatus,
        maintenance: MaintenanceMode,
        descriptors: Descriptors,
        config_problems: Callable[[], Sequence[object]],
        notices: Notices,
    ) -> None:
        self._run_dir = run_dir
        self._vms = vms
        self._watch = watch
        self._watchdog = watchdog
        self._maintenance = maintenance
        self._descriptors = descriptors
        self._config_problems = config_problems
        self._notices = notices

    def state(self) -> HostState:
        mode = self._maintenance.as_json()
        files = self._descriptors.as_json()
        few: list[Finding] = [few_descriptors(files["used"], files["limit"])] if files["alarm"] else []
        return HostState(
            vms=[self._vm(vm) for vm in self._vms()],
            mounts=self._watchdog.leases(),
            fenced=acknowledged.fenced_lately(self._run_dir),
            maintenance=Maintenance(mode["seconds"], mode["reason"], mode["by"]) if mode else None,
            config_broken=bool(self._config_problems()),
            more=[*few, *undelivered(self._failing())],
        )

    def _failing(self) -> list[tuple[str, str]]:
        return [(told["target"], told["failing_since"]) for told in self._notices.as_json() if told["problem"]]

    def _vm(self, vm: GuardedVm) -> VmState:
        known = self._watch.vms.get(vm.id)
        points = {lock.mount for lock in known.info.locks} if known is not None else set()
        lost = known is not None and any(
            self._watch.mounts[lock.mount].locks[lock.id].lost for lock in known.info.locks
        )
        return VmState(
            name=vm.name,
            state=str(vm.state),
            uuid=vm.uuid,
            frozen=vm.frozen,
            fencing=bool(vm.fencing),
            since=vm.frozen_since,
            why=known.why if known is not None else "",
            mounts=tuple(sorted(points)),
            held=bool(vm.held_for_person),
            replaced=any(file.replaced for file in vm.files),
            unlocked=lost or is_unlocked((file.guard.state for file in vm.files), vm.state in LIVING),
            beside=next((why for file in vm.files if (why := file.guard.unpinned_reason)), ""),
            incoming=vm.incoming,
        )
