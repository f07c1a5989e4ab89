"""What the watchdog knows, for people: the daemon's answers to `vmguard status`, `check`, `arm` and `disarm`."""

from __future__ import annotations

import math
from typing import Any

from vmguard.adapters.linux import clock
from vmguard.core.watchdog.lease import Mount
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.states import DANGER
from vmguard.daemon.fence.fencer import Fencer
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.watch.maintenance_mode import LONGEST, Arming
from vmguard.daemon.watch.observer import Observer
from vmguard.errors import BadInput
from vmguard.protocol.wire import Message

_TEXT = 500


class Oversight:
    """Reads the watchdog's state; changes nothing but the switch."""

    def __init__(self, watch: Watch, observer: Observer, arming: Arming, fencer: Fencer) -> None:
        self._watch = watch
        self._observer = observer
        self._arming = arming
        self._fencer = fencer

    def of_vm(self, vm: GuardedVm) -> dict[str, Any] | None:
        """Of one VM: its stance and why, the oldest lease that it depends on, the verdict on each lock. None when it is
        not watched (yet): none of its files is on NFSv4."""
        watch = self._watch
        known = watch.vms.get(vm.id)
        if known is None or not known.info.locks:
            return None
        found = watch.case_of(known)
        mounts = {lock.mount: watch.mounts[lock.mount] for lock in known.info.locks}
        now = clock.boottime()
        age = max(now - mount.confirmed for mount in mounts.values())
        climb = self._fencer.climbs.get(vm.id)
        return {
            "stance": str(known.stance),
            "done": known.stance is known.real,
            "need": found.need.name.lower(),
            "why": found.why,
            "lease_age": _number(age),
            "freeze_in": _number(min(_freeze_in(mount, now) for mount in mounts.values())),
            "fence": climb.sentence if climb is not None else "",
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

    def health(self) -> Message:
        watch, now = self._watch, clock.boottime()
        sources = {mount.point: mount.source for mount in self._observer.mounts.values()}
        return {
            "mounts": [
                {
                    "mount": mount.name,
                    "source": sources.get(mount.name, ""),
                    "phase": str(mount.phase),
                    "lease": mount.timeline.lease,
                    "lease_age": _number(now - mount.confirmed),
                    "freeze_in": _number(_freeze_in(mount, now)),
                    "locks": len(mount.locks),
                    "unsure": len(mount.unsure),
                    "lost": sum(lock.lost for lock in mount.locks.values()),
                }
                for mount in watch.mounts.values()
                if mount.locks
            ],
            "fences": self._fencer.as_json()[:100],
            "disarmed": self._arming.as_json(),
        }

    def disarm(self, message: Message) -> Message:
        seconds, reason = message.get("seconds"), str(message.get("reason") or "").strip()
        if not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            raise BadInput(f"{seconds!r} is not a number of seconds up to {LONGEST:.0f}")
        if not reason:
            raise BadInput("a reason is needed: somebody will read it")
        kept = self._arming.disarm(float(seconds), reason[:_TEXT], _by(message))
        return {"disarmed": self._arming.as_json(), "survives_restart": kept}

    def arm(self, message: Message) -> Message:
        was = self._arming.as_json()
        self._arming.arm(_by(message))
        return {"was": was}


def _by(message: Message) -> str:
    return str(message.get("by") or "somebody")[:_TEXT]


def _freeze_in(mount: Mount, now: float) -> float:
    """Seconds until the VMs on a mount are frozen if it goes on answering nothing; 0 when that is so already."""
    return 0.0 if mount.phase in DANGER else max(0.0, mount.confirmed + mount.timeline.freeze - now)


def _number(value: float) -> float | None:
    """JSON knows no infinity."""
    return round(value, 2) if math.isfinite(value) else None
