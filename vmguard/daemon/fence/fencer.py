"""Carry out the fence ladder (vmguard/core/watchdog/fence_ladder.py): take the step that the evidence names.

Each fence is persisted in /run/vmguard/fences before its first action and deleted when it is complete, so a restarted
daemon resumes at the step that the evidence shows. The releaser closes the descriptors, on its own proof; the fencer
brings the VM to that point, cuts queues that must not wait, and raises the alarms.
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
from vmguard.adapters.linux import mounts, statefile
from vmguard.adapters.linux.hardware_watchdog import HardwareWatchdog
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.watchdog.events import Cause, Level, Report
from vmguard.core.watchdog.fence_ladder import Next, Others, Rung, next_rung
from vmguard.core.watchdog.policy import Policy
from vmguard.core.watchdog.timing import Rungs
from vmguard.core.words import file_name
from vmguard.daemon.fence.evidence import FenceProgress, evidence, has_copies, runs_again
from vmguard.daemon.fence.signals import Signals
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime import subprocesses
from vmguard.daemon.runtime.loop import Loop

log = logging.getLogger("vmguard.fence")

#: interval of the checks of the evidence: short at first
_FIRST_POLL_S = 0.01
#: the interval that it grows to
_LAST_POLL_S = 0.5
#: retry of a check that failed
_FAILURE_RETRY_S = 0.1
#: between two cuts of a queue
_CUT_RETRY_S = 1.0


@dataclass(frozen=True)
class FencerDeps:
    """The functions of other parts that the fencer calls."""

    report: Callable[[Report], None]
    #: which other VMs are affected when this VM's mounts are cut by force
    others: Callable[[str], Others]
    #: why a restart would only lose the locks of these mounts again; empty when it would not
    why_no_restart: Callable[[set[str]], str]
    #: copies each description that carries a lock of the VM, unless there is a copy already
    copy: Callable[[GuardedVm], None]
    #: told the id of a VM whose locks are released
    gone: Callable[[str], None]
    host: HardwareWatchdog
    run_dirs: Callable[[], RunDirs]
    spans: Rungs = field(default_factory=Rungs)
    #: time for the hypervisor to notice the end of a VM by itself
    notice_s: float = 3.0
    #: between two attempts to start a VM again, or to have the hypervisor clean up
    start_retry_s: float = 5.0


class Fencer:
    """All fences of this host."""

    def __init__(self, loop: Loop, registry: Registry, signals: Signals, folder: str, deps: FencerDeps) -> None:
        self._loop = loop
        self._registry = registry
        self._signals = signals
        self._folder = folder
        self._deps = deps
        self.fences: dict[str, FenceProgress] = {}
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def begin(self, vm: GuardedVm, why: str, cause: Cause, policy: Policy) -> None:
        """Begin to fence a VM; the report that announces it came right before."""
        known = self.fences.get(vm.id)
        if known is not None and known.vm is vm:
            return
        fence = FenceProgress(
            vm.id, vm.name, vm.uuid, vm.hypervisor, why, policy, vm.pid, vm, cause=cause, began=self._loop.now()
        )
        fence.mounts = set(_mounts(vm))
        self.fences[vm.id] = fence
        self._save(fence)
        vm.fencing = why
        self._registry.save(vm)
        vm.when_released.append(lambda: self._released(fence))
        faults.point("fence-begun")
        self._advance(fence)

    def resume(self) -> None:
        """Resume the fences that an earlier daemon did not finish.

        Fences of VMs that are still guarded are left out: the watchdog orders them again (VmInfo.fencing).
        """
        for name in sorted(os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            value = statefile.read(path) if name.endswith(".json") else None
            try:
                fence = FenceProgress.from_json(value or {})
            except (KeyError, TypeError, ValueError) as problem:
                log.error("state file %s is not understood (%s); going on without it", name, problem)
                statefile.remove(path)
                continue
            if self._registry.get(fence.id) is None:
                fence.began = self._loop.now()
                self.fences[fence.id] = fence
                self._say(fence, Level.WARNING, "fence.resumed", "the fence that was begun is taken up again")
                self._advance(fence)

    def as_json(self) -> list[dict[str, Any]]:
        """Return each fence under way, with its step and the sentence for people."""
        return [
            {**fence.as_json(), "rung": str(fence.rung or ""), "sentence": fence.sentence}
            for fence in self.fences.values()
        ]

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _advance(self, fence: FenceProgress) -> None:
        """Take steps until one has to be waited for; check again soon."""
        if self.fences.get(fence.id) is not fence:
            return
        if fence.timer is not None:
            fence.timer.cancel()
        # First of all: whatever fails below, for want of memory, say, is retried.
        fence.timer = self._loop.call_in(_FAILURE_RETRY_S, lambda: self._advance(fence))
        rung = fence.rung
        if rung is None:
            self._copy(fence)  # local and quick; a failure is retried on its own step
        while True:
            seen = evidence(fence, self._others(fence), self._deps.run_dirs())
            step = next_rung(seen, fence.since, self._loop.now(), self._deps.spans, fence.policy)
            before = fence.rung
            self._tell(fence, step)
            for reached in _between(before, step.rung):
                faults.point(f"fence-{reached}")
            if step.done:
                fence.timer.cancel()
                self._finish(fence)
                return
            if not self._take(fence, step):
                break
        fence.pause = _FIRST_POLL_S if fence.rung is not rung else min(1.5 * fence.pause, _LAST_POLL_S)
        fence.timer.cancel()
        fence.timer = self._loop.call_in(fence.pause, lambda: self._advance(fence))

    def _others(self, fence: FenceProgress) -> Others:
        """Return which other VMs a cut would hurt.

        While the server answers, the last writes of a VM in conflict get through by themselves. So a mount is not cut
        at once for them, as it is when a lost lock makes them dangerous.
        """
        others = self._deps.others(fence.id) if fence.vm is not None else Others.NONE
        patient = fence.cause in (Cause.CONFLICT, Cause.REFUSED)
        return Others.JUDGED if patient and others is Others.NONE and fence.vm is not None else others

    def _tell(self, fence: FenceProgress, step: Next) -> None:
        """Report each step once, before it is taken, and each alarm once."""
        is_new, fence.rung, fence.sentence = step.rung is not fence.rung, step.rung, step.sentence
        if step.alarm and step.rung not in fence.alarmed:
            fence.alarmed.add(step.rung)
            self._say(fence, Level.ERROR, f"fence.{step.rung}", f"ALARM: {step.sentence}")
        elif is_new:
            self._say(fence, Level.INFO, f"fence.{step.rung}", step.sentence)
        if step.host_fence:
            self._fire(fence)
        elif is_new:
            self._cancel(fence)

    def _take(self, fence: FenceProgress, step: Next) -> bool:
        """Take one step. Return whether to check the evidence again at once."""
        match step.rung:
            case Rung.COPY:
                return self._copy(fence)
            case Rung.KILL if fence.vm is not None:
                killed = self._signals.kill(fence.vm)
                fence.killed |= killed
                faults.point("fence-killed")
                return bool(killed)
            case Rung.DEATH if fence.vm is not None and not has_copies(fence.vm):
                self._copy(fence)  # late, but before its last write is queued
            case Rung.CUT if step.may_cut:
                self._cut(fence)
            case Rung.CLEAN_UP if hypervisors.by_name(fence.hypervisor).needs_clean_up:
                self._clean_up(fence)
            case Rung.AFTER:
                self._start_again(fence)
        return False

    def _released(self, fence: FenceProgress) -> None:
        fence.vm = None
        faults.point("fence-released")
        self._deps.gone(fence.id)
        self._loop.call_in(0.0, lambda: self._advance(fence))

    def _finish(self, fence: FenceProgress) -> None:
        faults.point("fence-finished")
        self.fences.pop(fence.id, None)
        statefile.remove(self._path(fence))

    # -- actions -------------------------------------------------------------------------------------------------------

    def _copy(self, fence: FenceProgress) -> bool:
        """Copy the descriptions that carry the VM's locks. Return whether we hold all of them.

        Raises nothing: the kill must come in time, with the copies or without.
        """
        if fence.vm is None:
            return True
        try:
            self._deps.copy(fence.vm)
        except Exception:
            log.exception("%s: its descriptors cannot be copied; please report it as a bug", fence.title)
        return has_copies(fence.vm)

    def _cut(self, fence: FenceProgress) -> None:
        """Empty the mounts' queues by force, again at each interval: requests sent after one cut wait for the next."""
        vm, now = fence.vm, self._loop.now()
        if vm is None or fence.busy or now < fence.again:
            return
        points = _mounts(vm)
        if not points:
            return
        fence.again = now + _CUT_RETRY_S
        self._job(fence, "cut", points, lambda status: None, self._deps.spans.cut)

    def _clean_up(self, fence: FenceProgress) -> None:
        """Have the hypervisor clean up after the VM, if it has not noticed its end."""
        now = self._loop.now()
        if fence.busy or now < max(fence.again, fence.since[Rung.CLEAN_UP] + self._deps.notice_s):
            return
        fence.again = now + self._deps.start_retry_s

        def cleaned(status: int) -> None:
            fence.tidied = status == 0
            self._advance(fence)

        words = ["clean-up", fence.hypervisor, fence.uuid]
        self._job(fence, "hypervisor", words, cleaned, self._deps.spans.clean_up)

    def _start_again(self, fence: FenceProgress) -> None:
        """Start the VM again in the ordinary way: the hook claims its disks, or refuses."""
        now = self._loop.now()
        if fence.busy or now < fence.again:
            return
        if runs_again(fence, self._deps.run_dirs()):
            fence.followed = True
            return
        fence.again = now + self._deps.start_retry_s
        in_vain = self._deps.why_no_restart(fence.mounts)
        if in_vain:
            self._say(fence, Level.ERROR, "fence.no-restart", f"not started again: {in_vain}")
            fence.followed = True
            return
        faults.point("fence-start")

        def started(status: int) -> None:
            fence.followed = status == 0
            self._advance(fence)

        words = ["start", fence.hypervisor, fence.uuid]
        self._job(fence, "hypervisor", words, started, self._deps.spans.clean_up)

    def _job(
        self, fence: FenceProgress, module: str, words: list[str], done: Callable[[int], None], seconds: float
    ) -> None:
        def ended(status: int) -> None:
            fence.busy = False
            done(status)

        fence.busy = True
        try:
            subprocesses.start(self._loop, module, ended, words=words, seconds=seconds)
        except OSError as problem:
            fence.busy = False
            log.error("%s: %s cannot be started: %s", fence.title, module, problem)

    def _fire(self, fence: FenceProgress) -> None:
        if self._deps.host.fired:
            return
        self._say(fence, Level.ERROR, "fence.host", f"THE HOST IS RESET by its watchdog: {fence.sentence}")
        faults.point("fence-host")
        try:
            self._deps.host.fire()
        except OSError as problem:
            log.error("%s: the host's watchdog cannot be fired: %s", fence.title, problem)

    def _cancel(self, fence: FenceProgress) -> None:
        waits = any(other.rung in other.alarmed for other in self.fences.values() if other is not fence)
        if self._deps.host.fired and not waits and self._deps.host.cancel():
            self._say(fence, Level.WARNING, "fence.host-cancelled", "the proof came in time: the host is not reset")

    # -- the rest ---------------------------------------------------------------------------------------------------

    def _say(self, fence: FenceProgress, level: Level, code: str, text: str) -> None:
        fields = {"vm": fence.id, "name": fence.name, "uuid": fence.uuid, "evidence": fence.evidence}
        fields["since_begin"] = f"{self._loop.now() - fence.began:.3f}"
        self._deps.report(Report(level, code, f"{fence.title}: fence: {text}", fields))

    def _save(self, fence: FenceProgress) -> None:
        try:
            statefile.write(self._path(fence), fence.as_json())
        except OSError as problem:
            log.error("%s: its fence cannot be written down (%s); it is begun all the same", fence.title, problem)

    def _path(self, fence: FenceProgress) -> str:
        return os.path.join(self._folder, f"{file_name(fence.id)}.json")


def _between(before: Rung | None, now: Rung) -> list[Rung]:
    """Return the steps after ``before``, up to and including ``now``.

    A step whose proof was there at once is among them, such as a death quicker than the next check.
    """
    rungs = list(Rung)
    return rungs[0 if before is None else rungs.index(before) + 1 : rungs.index(now) + 1]


def _mounts(vm: GuardedVm) -> list[str]:
    """Return the mount points of the NFS files that a VM writes to."""
    devices = {file.key[0] for file in vm.files if file.mode == EXCLUSIVE}
    return sorted({mount.point for mount in mounts.mounts() if mount.device in devices and mount.is_nfs})
