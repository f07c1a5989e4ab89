"""Decide every freeze, thaw and fence of one host: mounts below, VMs above, one ``step`` for the daemon. Pure.

events.py says how to drive it. After every step the following holds (``check_invariants``):

1. A VM that is to run has every lock standing: none lost, none in conflict, on no mount at risk or expired, none in
   doubt for longer than allowed, unless policy, log-only or maintenance lets it run on, and this was reported.
2. A VM is thawed only in a step in which every one of its locks is KEPT, probed after its last doubt and answered, no
   rival that its policy minds has one of its disks, and, after a conflict, a person let it go on.
3. A VM is fenced only when a lock is LOST, by the policies ``on_at_risk: fence`` and ``on_conflict``, when its start
   was refused, or because an earlier daemon began to.
4. UNKNOWN is read neither as kept nor as lost: a frozen VM with an UNKNOWN lock stays frozen and is reported again.
5. Every action comes right behind the report that announces it.
6. At most one probe per lock is on its way.
"""

from __future__ import annotations

import math
from typing import assert_never

from vmguard.core.watchdog.case import Case, Measure, Need, case
from vmguard.core.watchdog.events import (
    Acted,
    Adopted,
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
    MountSeen,
    Report,
    RivalMet,
    StartRefused,
    Thaw,
    Tick,
    VmGone,
    VmInfo,
    VmSeen,
    WokeUp,
)
from vmguard.core.watchdog.fence_ladder import Others
from vmguard.core.watchdog.lease import MountLease
from vmguard.core.watchdog.policy import OnAtRisk
from vmguard.core.watchdog.stance import (
    Conflict,
    Context,
    Stance,
    Vm,
    failed,
    fence,
    let_go_on,
    meet_again,
    overdue,
    refuse_start,
    resolve,
)
from vmguard.core.watchdog.states import DANGER, Lock
from vmguard.core.watchdog.timing import ImpossibleTiming, Timeline, Wishes, timeline

#: a step that is later than this counts as a sleep
_SLEPT_S = 2.0
#: the need that a fence's cause must come from
_NEEDS = {Cause.LOST: Need.LOST, Cause.POLICY: Need.AT_RISK, Cause.CONFLICT: Need.CONFLICT}


class Watch:
    """All mounts and VMs of a host. ``wishes`` may be replaced: each mount takes them up at its next MountSeen."""

    def __init__(self, wishes: Wishes | None = None) -> None:
        self.wishes = wishes or Wishes()
        self.now = -math.inf
        self.mounts: dict[str, MountLease] = {}
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

    def step(self, event: Event) -> list[Effect]:
        """Take one event in; return what has to be done now, in that order.

        Raises ValueError for an event about a mount or lock that was never told, and AssertionError when an invariant
        does not hold (a bug: report it).
        """
        expected, self._wake = self._wake, math.inf
        self.now = max(self.now, event.now)
        if self.now > expected + _SLEPT_S and not isinstance(event, WokeUp):
            self._woke_up(self.now - expected, "the watchdog stood still")
        for mount in self.mounts.values():
            mount.clock(self.now)
        if self.now >= self.disarmed_until > -math.inf:
            self._arm("its time is over")
        self._take_in(event)
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
        """Return when the next Tick is due at the latest."""
        armed_again = self.disarmed_until if self.disarmed_until > self.now else math.inf
        return min(armed_again, self._vm_due, *(mount.due() for mount in self.mounts.values()))

    def others(self, vm_id: str) -> Others:
        """Return which other VMs are affected if this VM's mounts are force-aborted."""
        found = Others.NONE
        if vm_id not in self.vms:
            return found
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
        """Return why ``after_fence: restart`` would only lose the locks again; empty when it would not."""
        stolen = sorted(name for name in mounts if name in self.mounts and self.mounts[name].stolen)
        return f"another host seems to use this host's NFS identity on {', '.join(stolen)}" if stolen else ""

    def case_of(self, vm: Vm) -> Case:
        return case(self._locks(vm), vm.info.rivals, vm.info.policy, vm.conflict is Conflict.OVERDUE)

    # -- events -----------------------------------------------------------------------------------------------------

    def _take_in(self, event: Event) -> None:
        match event:
            case Tick():
                pass
            case MountSeen():
                self._mount_seen(event)
            case Answer() | Counters() | Hint():
                self._tell_mount(event)
            case VmSeen():
                self._vm_seen(event)
            case VmGone():
                self._vm_gone(event)
            case WokeUp():
                self._woke_up(event.gap, event.why)
            case Disarm():
                self._disarm(event)
            case Arm():
                self._arm(event.reason)
            case Acted():
                self._acted(event)
            case RivalMet() | StartRefused() | Adopted():
                self._tell_vm(event)
            case _:
                assert_never(event)

    def _mount_seen(self, event: MountSeen) -> None:
        line = self._timeline(event)
        mount = self.mounts.get(event.mount)
        if mount is None:
            self.mounts[event.mount] = MountLease(event.mount, line, self.now, event.confirmed)
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
        """Return the time spans of a mount; wishes that do not suit its lease are reported and left out."""
        try:
            return timeline(event.lease, self.wishes)
        except ImpossibleTiming as problem:
            text = f"{event.mount}: the configured times are not used: {problem}"
            self._say(Level.ERROR, "mount.timing", text, mount=event.mount)
            return timeline(event.lease)

    def _tell_mount(self, event: Answer | Counters | Hint) -> None:
        mount = self.mounts.get(event.mount)
        if mount is None:
            return
        match event:
            case Answer():
                mount.answer(event)
            case Counters():
                mount.counters(event)
            case Hint():
                if event.kind is HintKind.KERNEL_LOG:
                    text = f"{event.mount}: the kernel says: {event.text}; asking every lock"
                    self._say(Level.INFO, "mount.kernel-log", text, mount=event.mount)
                mount.hint(event)
            case _:
                assert_never(event)

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
            self.mounts[lock.mount].put(lock, self._unjudged(info))
        for lock in gone.values():
            self.mounts[lock.mount].drop(lock.id)
        if policy_before != info.policy:
            vm.back_to_what_is(self.now)
        self._touch(vm)

    def _unjudged(self, info: VmInfo) -> bool:
        """Return whether a VM may have come through an outage without a verdict on its locks.

        A daemon that died right behind the server's first answer left a fresh lease, and did not read the owner record.
        """
        policy = info.policy
        return info.frozen or policy.log_only or policy.on_at_risk is OnAtRisk.IGNORE or bool(self.disarmed_why)

    def _new_vm(self, info: VmInfo) -> Vm:
        vm = Vm(info, since=self.now)
        if info.fencing:
            text = f"{info.title}: taking up the fence that was begun: {info.fencing}"
            self._say(Level.ERROR, "vm.fence", text, vm=info.id)
            fence(vm, info.fencing, Cause.RESUMED, self.now, True)
        elif info.frozen:
            vm.stance = vm.real = Stance.FROZEN
            vm.remind_at = self.now + self.wishes.remind
            vm.conflict = Conflict.WAITING if info.held else Conflict.NONE
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
        text = f"maintenance for {event.until - self.now:.0f} s: {event.reason}; no VM is frozen or fenced"
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
            failed(vm, self.case_of(vm), self._context(vm), event.detail)
        self._touch(vm)

    def _tell_vm(self, event: RivalMet | StartRefused | Adopted) -> None:
        vm = self.vms.get(event.vm)
        if vm is None:
            return
        match event:
            case RivalMet():
                meet_again(vm)
            case StartRefused():
                refuse_start(vm, event.why, self.case_of(vm), self._context(vm))
            case Adopted():
                let_go_on(vm, self.case_of(vm), self._context(vm))
            case _:
                assert_never(event)
        self._touch(vm)

    # -- the parts --------------------------------------------------------------------------------------------------

    def _settle(self) -> set[str]:
        """Resolve every VM whose case may have changed; put all reports and effects in their order."""
        touched, self._touched = self._touched, set()
        for mount in self.mounts.values():
            self._effects += mount.take_reports()
            touched |= mount.touched
            mount.touched = set()
        touched &= self.vms.keys()
        for vm_id in sorted(touched):
            vm = self.vms[vm_id]
            resolve(vm, self.case_of(vm), self._context(vm))
        if self.now >= self._vm_due:
            touched |= self.vms.keys()
            self._vm_due = math.inf
        for vm_id in sorted(touched):
            vm = self.vms[vm_id]
            if self.now >= vm.due():
                overdue(vm, self.case_of(vm), self._context(vm))
            self._vm_due = min(self._vm_due, vm.due())
            self._effects += vm.effects
            vm.effects = []
        return touched

    def _touch(self, vm: Vm) -> None:
        self._touched.add(vm.info.id)

    def _locks(self, vm: Vm) -> list[tuple[Lock, MountLease]]:
        return [(self.mounts[lock.mount].locks[lock.id], self.mounts[lock.mount]) for lock in vm.info.locks]

    def _context(self, vm: Vm) -> Context:
        spans = [self.mounts[lock.mount].timeline.proof for lock in vm.info.locks]
        disarmed = f"disarmed, {self.disarmed_why}" if self.disarmed_why else ""
        return Context(self.now, disarmed, self.wishes.remind, min(spans, default=1.0))

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
            ignored = found.measure is Measure.NOTHING and vm.ignored is found.need
            _holds(found.need is Need.NONE or ignored, vm, f"runs although {found.why}")
        if vm.stance is Stance.FROZEN:
            _holds(vm.remind_at < math.inf, vm, "is frozen and nobody will be reminded of it")
        if vm.stance is not vm.real:
            reason = vm.info.policy.log_only or bool(self.disarmed_why)
            _holds(reason, vm, f"is {vm.real}, should be {vm.stance}, and nothing excuses it")

    def _check_effect(self, before: Effect | None, effect: Effect) -> None:
        if isinstance(effect, Freeze | Thaw | Fence):
            vm = self.vms[effect.vm]
            told = isinstance(before, Report) and before.fields.get("vm") == effect.vm
            _holds(told or vm.failures > 0, vm, f"gets {effect} without a report before it")
        if isinstance(effect, Thaw):
            _holds(self.case_of(vm).proven, vm, "is thawed without proof")
            _holds(not vm.held, vm, "is thawed after a conflict, and no person let it go on")
        if isinstance(effect, Fence) and effect.cause in _NEEDS:
            need = _NEEDS[effect.cause]
            _holds(self.case_of(vm).need is need, vm, f"is fenced for {effect.cause}, which is not so")


def _holds(condition: bool, vm: Vm, otherwise: str) -> None:
    if not condition:
        raise AssertionError(f"{vm.info.title} {otherwise}")
