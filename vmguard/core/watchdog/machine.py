"""The whole watchdog of one host: mounts below, VMs above, one ``step`` for the daemon. Pure.

How to drive it: see lease.py. What holds after every step, in words (``check_invariants``):

1. A VM that is to run has every lock standing: none lost, on no mount at risk or expired, none in doubt for longer than
   allowed, unless the admin's policy, log-only or a disarmed watchdog says that it runs on, and this was reported.
2. A VM is thawed only in a step in which every one of its locks is KEPT, asked after its last doubt and answered.
3. A VM is fenced only when a lock is LOST, or by the policy ``on_at_risk: fence``, or when locking anew failed.
4. UNKNOWN is read neither as kept nor as lost: a frozen VM with an UNKNOWN lock stays frozen and is reported again.
5. Every action comes right behind the report that announces it.
6. At most one question per lock is on its way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vmguard.core.watchdog.events import (
    Acted,
    Answer,
    Arm,
    Cause,
    Counters,
    Disarm,
    Effect,
    Event,
    Fence,
    Freeze,
    Hint,
    HintKind,
    Level,
    MountGone,
    MountSeen,
    Reclaim,
    Reclaimed,
    Report,
    Thaw,
    Tick,
    VmGone,
    VmInfo,
    VmSeen,
    WokeUp,
)
from vmguard.core.watchdog.fence_ladder import Others
from vmguard.core.watchdog.lease import Mount
from vmguard.core.watchdog.stance import (
    Case,
    Circumstances,
    Measure,
    Need,
    Stance,
    Vm,
    case,
    failed,
    fence,
    measure,
    overdue,
    reclaimed,
    resolve,
)
from vmguard.core.watchdog.states import DANGER, Lock
from vmguard.core.watchdog.timing import ImpossibleTiming, Timeline, Wishes, timeline

#: seconds by which a step may be late before it counts as a sleep
_SLEPT = 2.0


class Watch:
    """All mounts and VMs of a host. ``wishes`` may be replaced; each mount takes it up at its next MountSeen."""

    def __init__(self, wishes: Wishes | None = None) -> None:
        self.wishes = wishes or Wishes()
        self.now = -math.inf
        self.mounts: dict[str, Mount] = {}
        self.vms: dict[str, Vm] = {}
        #: until when nothing is done to VMs, and why
        self.disarmed_until = -math.inf
        self.disarmed_why = ""
        self._effects: list[Effect] = []
        #: VMs whose case may have changed in this step
        self._touched: set[str] = set()
        #: when a VM needs a look because of the time alone; may be too early, never too late
        self._vm_due = math.inf
        self._wake = math.inf
        self._handlers: dict[type, Callable[[Any], None]] = {
            Tick: lambda _: None,
            MountSeen: self._mount_seen,
            MountGone: self._mount_gone,
            Answer: self._answer,
            Counters: self._counters,
            Hint: self._hint,
            VmSeen: self._vm_seen,
            VmGone: self._vm_gone,
            WokeUp: lambda event: self._woke_up(event.gap, event.why),
            Disarm: self._disarm,
            Arm: lambda event: self._arm(event.reason),
            Acted: self._acted,
            Reclaimed: self._reclaimed,
        }

    def step(self, event: Event) -> list[Effect]:
        """Take one event in; what has to be done now, in its order. Raises ValueError for an event about a mount or
        lock that was never told, and AssertionError when an invariant does not hold (a bug: report it)."""
        expected, self._wake = self._wake, math.inf
        self.now = max(self.now, event.now)
        if self.now > expected + _SLEPT and not isinstance(event, WokeUp):
            self._woke_up(self.now - expected, "the watchdog stood still")
        for mount in self.mounts.values():
            mount.clock(self.now)
        if self.now >= self.disarmed_until > -math.inf:
            self._arm("its time is over")
        self._handlers[type(event)](event)
        for mount in self.mounts.values():
            mount.clock(self.now)
        touched = self._settle()
        effects, self._effects = self._effects, []
        for mount in self.mounts.values():
            effects += mount.take_questions()
        self.check_invariants(touched, effects)
        self._wake = self.wake_at()
        return effects

    def wake_at(self) -> float:
        """When the next Tick is due at the latest."""
        armed_again = self.disarmed_until if self.disarmed_until > self.now else math.inf
        return min(armed_again, self._vm_due, *(mount.due() for mount in self.mounts.values()))

    def others(self, vm_id: str) -> Others:
        """Whom it would hurt if the queues of this VM's mounts were cut by force."""
        found = Others.NONE
        for mount in {lock.mount for lock in self.vms[vm_id].info.locks}:
            silent = self.mounts[mount].phase in DANGER
            for lock_id in self.mounts[mount].locks:
                if lock_id.vm == vm_id or self.vms[lock_id.vm].stance is Stance.FENCING:
                    continue
                if silent or lock_id in self.mounts[mount].unsure:
                    return Others.WAITING
                found = Others.JUDGED
        return found

    def why_no_restart(self, mounts: set[str]) -> str:
        """Why ``after_fence: restart`` would only lose the locks again, empty when it would not."""
        stolen = sorted(name for name in mounts if name in self.mounts and self.mounts[name].stolen)
        return f"another host seems to use this host's NFS identity on {', '.join(stolen)}" if stolen else ""

    def case_of(self, vm: Vm) -> Case:
        return case(self._locks(vm))

    # -- events -----------------------------------------------------------------------------------------------------

    def _mount_seen(self, event: MountSeen) -> None:
        line = self._timeline(event)
        mount = self.mounts.get(event.mount)
        if mount is None:
            self.mounts[event.mount] = Mount(event.mount, line, self.now, event.confirmed)
            text = f"{event.mount}: lease {line.lease:g} s; freeze {line.freeze:g} s after the last answered request"
            self._say(Level.INFO, "mount.seen", text, mount=event.mount)
        elif mount.timeline != line:
            change = f"the server's lease time is {line.lease:g} s now, it was {mount.timeline.lease:g} s"
            same = line.lease == mount.timeline.lease
            change = "the configured times have changed" if same else change
            text = f"{event.mount}: {change}; freeze {line.freeze:g} s after the last answered request"
            self._say(Level.WARNING, "mount.lease-time", text, mount=event.mount)
            mount.retime(line)
            mount.clock(self.now)

    def _timeline(self, event: MountSeen) -> Timeline:
        """The time spans for a mount; wishes that do not suit its lease are reported and left out."""
        try:
            return timeline(event.lease, self.wishes)
        except ImpossibleTiming as problem:
            text = f"{event.mount}: the configured times are not used: {problem}"
            self._say(Level.ERROR, "mount.timing", text, mount=event.mount)
            return timeline(event.lease)

    def _mount_gone(self, event: MountGone) -> None:
        mount = self.mounts.get(event.mount)
        if mount is not None and mount.locks:
            raise ValueError(f"{event.mount} cannot be gone: {len(mount.locks)} locks on it are watched")
        self.mounts.pop(event.mount, None)

    def _answer(self, event: Answer) -> None:
        if event.mount in self.mounts:
            self.mounts[event.mount].answer(event)

    def _counters(self, event: Counters) -> None:
        if event.mount in self.mounts:
            self.mounts[event.mount].counters(event)

    def _hint(self, event: Hint) -> None:
        if event.mount in self.mounts:
            if event.kind is HintKind.KERNEL_LOG:
                text = f"{event.mount}: the kernel says: {event.text}; asking every lock"
                self._say(Level.INFO, "mount.kernel-log", text, mount=event.mount)
            self.mounts[event.mount].hint(event)

    def _vm_seen(self, event: VmSeen) -> None:
        info = event.vm
        for lock in info.locks:
            if lock.mount not in self.mounts:
                raise ValueError(f"{lock.path} is on {lock.mount}, which was never told")
        vm = self.vms.get(info.id)
        if vm is None:
            vm = self.vms[info.id] = self._new_vm(info)
        gone = {lock.id: lock for lock in vm.info.locks if lock.id in self.mounts[lock.mount].locks}
        policy_before, vm.info = vm.info.policy, info
        for lock in info.locks:
            before = gone.pop(lock.id, lock)
            if before.mount != lock.mount:
                self.mounts[before.mount].drop(lock.id)
            self.mounts[lock.mount].put(lock)
        for lock in gone.values():
            self.mounts[lock.mount].drop(lock.id)
        if policy_before != info.policy:
            vm.back_to_what_is(self.now)
        self._touch(vm)

    def _new_vm(self, info: VmInfo) -> Vm:
        vm = Vm(info, since=self.now)
        if info.fencing:
            text = f"{info.title}: taking up the fence that was begun: {info.fencing}"
            self._say(Level.ERROR, "vm.fence", text, vm=info.id)
            fence(vm, info.fencing, Cause.RESUMED, self.now, True)
        elif info.frozen:
            vm.stance = vm.real = Stance.FROZEN
            vm.remind_at = self.now + self.wishes.remind
        return vm

    def _vm_gone(self, event: VmGone) -> None:
        vm = self.vms.pop(event.vm, None)
        if vm is None:
            return
        for lock in vm.info.locks:
            self.mounts[lock.mount].drop(lock.id)
        if vm.stance is not Stance.RUNNING:
            self._say(Level.INFO, "vm.gone", f"{vm.info.title} is gone while {vm.stance}", vm=vm.info.id)

    def _woke_up(self, gap: float, why: str) -> None:
        text = f"{why} for {gap:.1f} s: asking every lock"
        self._say(Level.WARNING, "watch.woke-up", text, gap=f"{gap:.1f}")
        for mount in self.mounts.values():
            mount.clock(self.now)
            mount.doubt_all(why)

    def _disarm(self, event: Disarm) -> None:
        self.disarmed_until, self.disarmed_why = event.until, event.reason
        text = f"DISARMED for {event.until - self.now:.0f} s: {event.reason}; no VM is frozen or fenced"
        self._say(Level.WARNING, "watch.disarmed", text, reason=event.reason)

    def _arm(self, reason: str) -> None:
        if not self.disarmed_why:
            return
        self.disarmed_until, self.disarmed_why = -math.inf, ""
        self._say(Level.INFO, "watch.armed", f"armed again: {reason}", reason=reason)
        for vm in self.vms.values():
            vm.back_to_what_is(self.now)
            self._touch(vm)

    def _acted(self, event: Acted) -> None:
        vm = self.vms.get(event.vm)
        if vm is None or vm.pending is not event.act:
            return
        if event.ok:
            vm.pending, vm.again, vm.failures = None, math.inf, 0
        elif not vm.failures:
            failed(vm, self.case_of(vm), self._around(vm), event.detail)
        self._touch(vm)

    def _reclaimed(self, event: Reclaimed) -> None:
        vm = self.vms.get(event.vm)
        if vm is None or vm.stance is not Stance.RECLAIMING or vm.real is not Stance.RECLAIMING:
            return
        if event.ok:
            for lock in vm.info.locks:
                self.mounts[lock.mount].renew(lock.id, event.granted)
        reclaimed(vm, event.ok, event.evidence, self._around(vm))
        self._touch(vm)

    # -- the parts --------------------------------------------------------------------------------------------------

    def _settle(self) -> set[str]:
        """Resolve every VM whose case may have changed: after this, all reports and orders are in their order."""
        touched, self._touched = self._touched, set()
        for mount in self.mounts.values():
            self._effects += mount.take_reports()
            touched |= mount.touched
            mount.touched = set()
        touched &= self.vms.keys()
        for vm_id in sorted(touched):
            vm = self.vms[vm_id]
            resolve(vm, self.case_of(vm), self._around(vm))
        if self.now >= self._vm_due:
            touched |= self.vms.keys()
            self._vm_due = math.inf
        for vm_id in sorted(touched):
            vm = self.vms[vm_id]
            if self.now >= vm.due():
                overdue(vm, self.case_of(vm), self._around(vm))
            self._vm_due = min(self._vm_due, vm.due())
            self._effects += vm.effects
            vm.effects = []
        return touched

    def _touch(self, vm: Vm) -> None:
        self._touched.add(vm.info.id)

    def _locks(self, vm: Vm) -> list[tuple[Lock, Mount]]:
        return [(self.mounts[lock.mount].locks[lock.id], self.mounts[lock.mount]) for lock in vm.info.locks]

    def _around(self, vm: Vm) -> Circumstances:
        spans = [self.mounts[lock.mount].timeline.proof for lock in vm.info.locks]
        disarmed = f"disarmed, {self.disarmed_why}" if self.disarmed_why else ""
        return Circumstances(self.now, disarmed, self.wishes.remind, min(spans, default=1.0))

    def _say(self, level: Level, code: str, sentence: str, **fields: str) -> None:
        self._effects.append(Report(level, code, sentence, fields))

    # -- what always holds --------------------------------------------------------------------------------------------

    def check_invariants(self, vm_ids: set[str] | None = None, effects: list[Effect] | None = None) -> None:
        """Raises AssertionError when one of the sentences at the top of this module is not true."""
        for vm_id in self.vms.keys() if vm_ids is None else vm_ids:
            self._check_vm(self.vms[vm_id])
        for before, effect in zip([None, *(effects or [])], effects or [], strict=False):
            self._check_effect(before, effect)

    def _check_vm(self, vm: Vm) -> None:
        found = self.case_of(vm)
        if vm.stance is Stance.RUNNING and vm.info.process:
            ignored = measure(found.need, vm.info.policy) is Measure.NOTHING and vm.ignored is found.need
            _holds(found.need is Need.NONE or ignored, vm, f"runs although {found.why}")
        if vm.stance is Stance.FROZEN:
            _holds(vm.remind_at < math.inf, vm, "is frozen and nobody will be reminded of it")
        if vm.stance is not vm.real:
            reason = vm.info.policy.log_only or bool(self.disarmed_why)
            _holds(reason, vm, f"is {vm.real}, should be {vm.stance}, and nothing excuses it")

    def _check_effect(self, before: Effect | None, effect: Effect) -> None:
        if isinstance(effect, Freeze | Thaw | Fence | Reclaim):
            vm = self.vms[effect.vm]
            told = isinstance(before, Report) and before.fields.get("vm") == effect.vm
            _holds(told or vm.failures > 0, vm, f"gets {effect} without a report before it")
        if isinstance(effect, Thaw):
            _holds(self.case_of(vm).proven, vm, "is thawed without proof")
        if isinstance(effect, Fence) and effect.cause in (Cause.LOST, Cause.POLICY):
            need = Need.LOST if effect.cause is Cause.LOST else Need.AT_RISK
            _holds(self.case_of(vm).need is need, vm, f"is fenced for {effect.cause}, which is not so")


def _holds(condition: bool, vm: Vm, otherwise: str) -> None:
    if not condition:
        raise AssertionError(f"{vm.info.title} {otherwise}")
