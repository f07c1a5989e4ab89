"""Climbs the fence ladder (vmguard/core/watchdog/fence_ladder.py) for real: takes the rung that the evidence names.

What is to be ended is written to /run/vmguard/fences before anything is done, and removed when all of it is done: a
daemon that comes after a killed one finds its rung by the evidence. Letting go of the descriptors is the keeper's
work, on the keeper's own proof; the fencer sees to it that it comes to that, cuts what may not wait, raises the alarms.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmguard import faults
from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import clock, mounts, statefile
from vmguard.adapters.linux.hardware_watchdog import HostFence
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.watchdog.events import Cause, Level, Report
from vmguard.core.watchdog.fence_ladder import Next, Others, Rung, next_rung
from vmguard.core.watchdog.policy import Policy
from vmguard.core.watchdog.timing import Rungs
from vmguard.daemon.fence.evidence import Climb, evidence, has_copies, runs_again
from vmguard.daemon.fence.signals import Signals
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.fence")

#: seconds between two looks at the evidence: soon at first, then less often
_FIRST_LOOK, _LAST_LOOK = 0.01, 0.5
#: seconds after which a look that failed is taken again
_AFTER_FAILURE = 0.1
#: seconds between two tries to cut a queue, and to start a VM again
_CUT_AGAIN, _START_AGAIN = 1.0, 5.0
#: seconds in which the hypervisor notices the end of a VM by itself, if it does
_NOTICES = 3.0


@dataclass(frozen=True)
class Surroundings:
    """Whom the fencer asks and tells."""

    report: Callable[[Report], None]
    #: whom a cut of this VM's mounts would hurt
    others: Callable[[str], Others]
    #: why a restart would only lose the locks of these mounts again, empty when it would not
    why_no_restart: Callable[[set[str]], str]
    #: take copies of the descriptions of a VM that carry its locks, as far as we have none
    copy: Callable[[GuardedVm], None]
    #: the VM's locks are let go of
    gone: Callable[[str], None]
    host: HostFence
    run_dirs: Callable[[], RunDirs]
    spans: Rungs = field(default_factory=Rungs)


class Fencer:
    """All fences of this host."""

    def __init__(self, loop: Loop, registry: Registry, signals: Signals, folder: str, around: Surroundings) -> None:
        self._loop = loop
        self._registry = registry
        self._signals = signals
        self._folder = folder
        self._around = around
        self.climbs: dict[str, Climb] = {}
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def begin(self, vm: GuardedVm, why: str, cause: Cause, policy: Policy) -> None:
        """Begin to fence a VM; the report that says so came right before."""
        known = self.climbs.get(vm.id)
        if known is not None and known.vm is vm:
            return
        climb = Climb(
            vm.id, vm.name, vm.uuid, vm.hypervisor, why, policy, vm.pid, vm, cause=cause, began=clock.boottime()
        )
        climb.mounts = set(_mounts(vm))
        self.climbs[vm.id] = climb
        self._save(climb)
        vm.fencing = why
        self._registry.save(vm)
        vm.when_released.append(lambda: self._released(climb))
        faults.point("fence-begun")
        self._climb(climb)

    def resume(self) -> None:
        """Fences that a daemon before this one did not finish. The watchdog orders those of VMs that are still guarded
        again by itself (VmInfo.fencing)."""
        for name in sorted(os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            value = statefile.read(path) if name.endswith(".json") else None
            try:
                climb = Climb.from_json(value or {})
            except (KeyError, TypeError, ValueError) as problem:
                log.error("state file %s is not understood (%s); going on without it", name, problem)
                statefile.remove(path)
                continue
            if self._registry.get(climb.id) is None:
                climb.began = clock.boottime()
                self.climbs[climb.id] = climb
                self._say(climb, Level.WARNING, "fence.resumed", "the fence that was begun is taken up again")
                self._climb(climb)

    def as_json(self) -> list[dict[str, Any]]:
        """What is being ended, and on which rung."""
        return [
            {**climb.as_json(), "rung": str(climb.rung or ""), "sentence": climb.sentence}
            for climb in self.climbs.values()
        ]

    # -- climbing ---------------------------------------------------------------------------------------------------

    def _climb(self, climb: Climb) -> None:
        """Take rungs until one has to be waited for; look again soon."""
        if self.climbs.get(climb.id) is not climb:
            return
        if climb.timer is not None:
            climb.timer.cancel()
        # Whatever fails below, for want of memory, say: it is looked at again.
        climb.timer = self._loop.call_in(_AFTER_FAILURE, lambda: self._climb(climb))
        rung = climb.rung
        if rung is None:
            self._copy(climb)  # local and quick; what fails is tried again on its rung
        while True:
            seen = evidence(climb, self._others(climb), self._around.run_dirs())
            step = next_rung(seen, climb.since, clock.boottime(), self._around.spans, climb.policy)
            before = climb.rung
            self._tell(climb, step)
            for reached in _between(before, step.rung):
                faults.point(f"fence-{reached}")
            if step.done:
                climb.timer.cancel()
                self._finish(climb)
                return
            if not self._take(climb, step):
                break
        climb.pause = _FIRST_LOOK if climb.rung is not rung else min(1.5 * climb.pause, _LAST_LOOK)
        climb.timer.cancel()
        climb.timer = self._loop.call_in(climb.pause, lambda: self._climb(climb))

    def _others(self, climb: Climb) -> Others:
        """Return which other VMs a cut would hurt.

        While the server answers, the last writes of a VM in conflict get through by themselves: a mount is not cut for
        them at once, as it is when a lost lock makes them dangerous.
        """
        others = self._around.others(climb.id) if climb.vm is not None else Others.NONE
        patient = climb.cause in (Cause.CONFLICT, Cause.REFUSED)
        return Others.JUDGED if patient and others is Others.NONE and climb.vm is not None else others

    def _tell(self, climb: Climb, step: Next) -> None:
        """Each rung once, before it is taken; each alarm once."""
        is_new, climb.rung, climb.sentence = step.rung is not climb.rung, step.rung, step.sentence
        if step.alarm and step.rung not in climb.alarmed:
            climb.alarmed.add(step.rung)
            self._say(climb, Level.ERROR, f"fence.{step.rung}", f"ALARM: {step.sentence}")
        elif is_new:
            self._say(climb, Level.INFO, f"fence.{step.rung}", step.sentence)
        if step.host_fence:
            self._fire(climb)
        elif is_new:
            self._cancel(climb)

    def _take(self, climb: Climb, step: Next) -> bool:
        """Do what the rung wants; whether to look at once."""
        match step.rung:
            case Rung.COPY:
                return self._copy(climb)
            case Rung.KILL if climb.vm is not None:
                killed = self._signals.kill(climb.vm)
                climb.killed |= killed
                faults.point("fence-killed")
                return bool(killed)
            case Rung.DEATH if climb.vm is not None and not has_copies(climb.vm):
                self._copy(climb)  # late, but before its last write is queued
            case Rung.CUT if step.may_cut:
                self._cut(climb)
            case Rung.CLEAN_UP if hypervisors.by_name(climb.hypervisor).needs_clean_up:
                self._clean_up(climb)
            case Rung.AFTER:
                self._start_again(climb)
        return False

    def _released(self, climb: Climb) -> None:
        climb.vm = None
        faults.point("fence-released")
        self._around.gone(climb.id)
        self._loop.call_in(0.0, lambda: self._climb(climb))

    def _finish(self, climb: Climb) -> None:
        faults.point("fence-finished")
        self.climbs.pop(climb.id, None)
        statefile.remove(self._path(climb))

    # -- acts -------------------------------------------------------------------------------------------------------

    def _copy(self, climb: Climb) -> bool:
        """Copy the descriptions that carry its locks. Return whether all are held.

        It raises nothing: the kill must come in time, with the copies or without.
        """
        if climb.vm is None:
            return True
        try:
            self._around.copy(climb.vm)
        except Exception:
            log.exception("%s: its descriptors cannot be copied; please report it as a bug", climb.title)
        return has_copies(climb.vm)

    def _cut(self, climb: Climb) -> None:
        """Again and again: what the client sends after one cut waits for the next."""
        vm, now = climb.vm, clock.boottime()
        if vm is None or climb.busy or now < climb.again:
            return
        points = _mounts(vm)
        if not points:
            return
        climb.again = now + _CUT_AGAIN
        self._job(climb, "cut", points, lambda status: None, self._around.spans.cut)

    def _clean_up(self, climb: Climb) -> None:
        """What the hypervisor does at the end of a VM, where it has not noticed it."""
        now = clock.boottime()
        if climb.busy or now < max(climb.again, climb.since[Rung.CLEAN_UP] + _NOTICES):
            return
        climb.again = now + _START_AGAIN

        def cleaned(status: int) -> None:
            climb.tidied = status == 0
            self._climb(climb)

        words = ["clean-up", climb.hypervisor, climb.uuid]
        self._job(climb, "hypervisor", words, cleaned, self._around.spans.clean_up)

    def _start_again(self, climb: Climb) -> None:
        """An ordinary start: the hook claims the disks, or refuses."""
        now = clock.boottime()
        if climb.busy or now < climb.again:
            return
        if runs_again(climb, self._around.run_dirs()):
            climb.followed = True
            return
        climb.again = now + _START_AGAIN
        in_vain = self._around.why_no_restart(climb.mounts)
        if in_vain:
            self._say(climb, Level.ERROR, "fence.no-restart", f"not started again: {in_vain}")
            climb.followed = True
            return
        faults.point("fence-start")

        def started(status: int) -> None:
            climb.followed = status == 0
            self._climb(climb)

        words = ["start", climb.hypervisor, climb.uuid]
        self._job(climb, "hypervisor", words, started, self._around.spans.clean_up)

    def _job(self, climb: Climb, module: str, words: list[str], done: Callable[[int], None], seconds: float) -> None:
        def ended(status: int) -> None:
            climb.busy = False
            done(status)

        climb.busy = True
        try:
            subprocesses.start(self._loop, module, ended, words=words, seconds=seconds)
        except OSError as problem:
            climb.busy = False
            log.error("%s: %s cannot be started: %s", climb.title, module, problem)

    def _fire(self, climb: Climb) -> None:
        if self._around.host.fired:
            return
        self._say(climb, Level.ERROR, "fence.host", f"THE HOST IS RESET by its watchdog: {climb.sentence}")
        faults.point("fence-host")
        try:
            self._around.host.fire()
        except OSError as problem:
            log.error("%s: the host's watchdog cannot be fired: %s", climb.title, problem)

    def _cancel(self, climb: Climb) -> None:
        waits = any(other.rung in other.alarmed for other in self.climbs.values() if other is not climb)
        if self._around.host.fired and not waits and self._around.host.cancel():
            self._say(climb, Level.WARNING, "fence.host-cancelled", "the proof came in time: the host is not reset")

    # -- the rest ---------------------------------------------------------------------------------------------------

    def _say(self, climb: Climb, level: Level, code: str, text: str) -> None:
        fields = {"vm": climb.id, "name": climb.name, "uuid": climb.uuid, "evidence": climb.evidence}
        fields["since_begin"] = f"{clock.boottime() - climb.began:.3f}"
        self._around.report(Report(level, code, f"{climb.title}: fence: {text}", fields))

    def _save(self, climb: Climb) -> None:
        try:
            statefile.write(self._path(climb), climb.as_json())
        except OSError as problem:
            log.error("%s: its fence cannot be written down (%s); it is begun all the same", climb.title, problem)

    def _path(self, climb: Climb) -> str:
        return os.path.join(self._folder, f"{climb.id}.json")


def _between(before: Rung | None, now: Rung) -> list[Rung]:
    """The rungs above one, up to another one: also those whose proof was there before anybody could stand on them, as
    that of a death that is quicker than the next look."""
    rungs = list(Rung)
    return rungs[0 if before is None else rungs.index(before) + 1 : rungs.index(now) + 1]


def _mounts(vm: GuardedVm) -> list[str]:
    """Where the NFS files are that it writes."""
    devices = {file.key[0] for file in vm.files if file.mode == EXCLUSIVE}
    return sorted({mount.point for mount in mounts.mounts() if mount.device in devices and mount.is_nfs})
