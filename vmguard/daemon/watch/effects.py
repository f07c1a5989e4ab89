"""Carry out what the watchdog orders: each effect has its one executor."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import assert_never

from vmguard.core.watchdog.events import (
    Act,
    Acted,
    Cause,
    Effect,
    Event,
    Fence,
    Freeze,
    Hold,
    Probe,
    Relock,
    Report,
    Thaw,
    TryLocks,
    Unhold,
)
from vmguard.core.watchdog.policy import AfterFence, Policy
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.fence.fencer import Fencer
from vmguard.daemon.fence.signals import Signals
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.pin.relock import Relocker
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.watch.guest_clocks import GuestClocks
from vmguard.daemon.watch.probes import Probes


class Effects:
    """The executors of the watchdog's effects."""

    def __init__(
        self,
        registry: Registry,
        feed: Callable[[Event], None],
        report: Callable[[Report], None],
        policy: Callable[[GuardedVm], Policy],
        probes: Probes,
        signals: Signals,
        guest_clocks: GuestClocks,
        fencer: Fencer,
        conflicts: Conflicts,
        pinner: Pinner,
        relocker: Relocker,
        now: Callable[[], float],
    ) -> None:
        """``feed`` gets the answers. ``policy`` returns the admin's choices for a VM. ``now`` is the loop's clock."""
        self._registry = registry
        self._feed = feed
        self._report = report
        self._policy = policy
        self._probes = probes
        self._signals = signals
        self._guest_clocks = guest_clocks
        self._fencer = fencer
        self._conflicts = conflicts
        self._pinner = pinner
        self._relocker = relocker
        self._now = now

    def carry_out(self, effect: Effect) -> None:
        """Carry out one effect; an effect on a VM that is gone by now is dropped."""
        match effect:
            case Report():
                self._report(effect)
            case Probe():
                self._probes.ask(effect)
            case Freeze() | Thaw() | Fence() | Hold() | Unhold() | TryLocks() | Relock():
                vm = self._registry.get(effect.vm)
                if vm is not None:
                    self._act_on(vm, effect)
            case _:
                assert_never(effect)

    def _act_on(self, vm: GuardedVm, effect: Freeze | Thaw | Fence | Hold | Unhold | TryLocks | Relock) -> None:
        match effect:
            case Freeze():
                self._signals.freeze(vm, functools.partial(self._frozen, vm))
            case Thaw():
                self._signals.thaw(vm, functools.partial(self._thawed, vm))
            case Fence():
                self._fence(vm, effect)
            case Hold():
                self._conflicts.hold(vm, effect.why)
            case Unhold():
                self._conflicts.end(vm)
            case TryLocks():
                self._pinner.try_again(vm)
            case Relock():
                self._relocker.lock_again(vm, effect.key)
            case _:
                assert_never(effect)

    def _frozen(self, vm: GuardedVm, problem: str) -> None:
        self._guest_clocks.frozen(vm)
        self._feed(Acted(self._now(), vm.id, Act.FREEZE, not problem, problem))

    def _thawed(self, vm: GuardedVm, problem: str) -> None:
        if not problem:
            self._guest_clocks.thawed(vm, self._policy(vm).set_clock)
        self._feed(Acted(self._now(), vm.id, Act.THAW, not problem, problem))

    def _fence(self, vm: GuardedVm, effect: Fence) -> None:
        policy = self._policy(vm)
        if effect.cause is Cause.REFUSED:  # starting it again would only be refused again
            policy = dataclasses.replace(policy, after_fence=AfterFence.OFF)
        self._fencer.begin(vm, effect.evidence, effect.cause, policy)
