"""Report the watchdog's state as JSON, for `vmguard status`, `check` and the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from vmguard.core.reports.health import MountState
from vmguard.core.watchdog.lease import MountLease
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.states import DANGER
from vmguard.daemon.fence.fencer import Fencer
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.watch.maintenance_mode import MaintenanceMode
from vmguard.daemon.watch.observer import Observer
from vmguard.protocol.wire import Message

#: problems of the configuration that an answer has room for
_MAX_PROBLEMS = 20


class WatchdogStatus:
    """A read-only view of the watchdog's state."""

    def __init__(
        self,
        watch: Watch,
        observer: Observer,
        maintenance: MaintenanceMode,
        fencer: Fencer,
        now: Callable[[], float],
        config_problems: Callable[[], Sequence[object]] = tuple,
    ) -> None:
        self._watch = watch
        self._observer = observer
        self._maintenance = maintenance
        self._fencer = fencer
        self._now = now
        self._config_problems = config_problems

    def of_vm(self, vm: GuardedVm) -> dict[str, Any] | None:
        """Return a VM's stance and why, the oldest lease that it depends on, and the verdict on each lock.

        None when the VM is not watched (yet): none of its files is on NFSv4.
        """
        watch = self._watch
        known = watch.vms.get(vm.id)
        if known is None or not known.info.locks:
            return None
        found = watch.case_of(known)
        mounts = {lock.mount: watch.mounts[lock.mount] for lock in known.info.locks}
        now = self._now()
        age = max(now - mount.confirmed for mount in mounts.values())
        fence = self._fencer.fences.get(vm.id)
        return {
            "stance": str(known.stance),
            "done": known.stance is known.real,
            "need": found.need.name.lower(),
            "why": found.why,
            "lease_age": _number(age),
            "freeze_in": _number(min(_freeze_in(mount, now) for mount in mounts.values())),
            "fence": fence.sentence if fence is not None else "",
            "locks": [
                {
                    "path": lock.info.path,
                    "mount": info.mount,
                    "verdict": str(lock.verdict),
                    "evidence": lock.evidence,
                    "kept_age": _number(now - lock.kept_at),
                }
                for info in known.info.locks
                for lock in [mounts[info.mount].locks[info.id]]
            ],
        }

    def leases(self) -> list[MountState]:
        """Return the lease of each mount that a guarded VM depends on."""
        now = self._now()
        sources = self._sources()
        return [
            MountState(
                mount.name,
                sources.get(mount.name, ""),
                str(mount.phase),
                _number(now - mount.confirmed),
                _number(_freeze_in(mount, now)),
            )
            for mount in self._watch.mounts.values()
            if mount.locks
        ]

    def _sources(self) -> dict[str, str]:
        return {mount.point: mount.source for mount in self._observer.mounts.values()}

    def health(self) -> Message:
        """Return the leases of all mounts, fences under way, whether it is disarmed, and a configuration not taken."""
        watch, now = self._watch, self._now()
        sources = self._sources()
        return {
            "mounts": [
                {
                    "mount": mount.name,
                    "source": sources.get(mount.name, ""),
                    "phase": str(mount.phase),
                    "probes": mount.probes,
                    "lease": mount.timeline.lease,
                    "lease_age": _number(now - mount.confirmed),
                    "freeze_in": _number(_freeze_in(mount, now)),
                    "freeze_after": _number(mount.timeline.freeze),
                    "locks": len(mount.locks),
                    "unsure": len(mount.unsure),
                    "lost": sum(lock.lost for lock in mount.locks.values()),
                }
                for mount in watch.mounts.values()
                if mount.locks
            ],
            "fences": self._fencer.as_json()[:100],
            "disarmed": self._maintenance.as_json(),
            "config_problems": [str(problem) for problem in self._config_problems()][:_MAX_PROBLEMS],
        }


def _freeze_in(mount: MountLease, now: float) -> float:
    """Return the seconds until the VMs on a mount are frozen if it answers nothing; 0 when they are already."""
    return 0.0 if mount.phase in DANGER else max(0.0, mount.confirmed + mount.timeline.freeze - now)


def _number(value: float) -> float | None:
    """Return a number for JSON, which knows no infinity."""
    return round(value, 2) if math.isfinite(value) else None
