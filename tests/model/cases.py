"""What the search is asked, and what it must answer: the promise holds, or it is broken and the story says how.

A case that must be broken is a control, or a limit that README.md states. Without it a search that finds nothing says
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.machines import Setup
from tests.model.world import Rules
from vmguard.core.watchdog.events import Effect, Event, Probe, Report, VmInfo
from vmguard.core.watchdog.machine import Watch
from vmguard.core.watchdog.policy import OnAtRisk, Policy


class Silent(Watch):
    """A machine that acts without a report: its fifth sentence is broken."""

    def _settle(self) -> set[str]:
        touched = super()._settle()
        self._effects = [effect for effect in self._effects if not isinstance(effect, Report)]
        return touched


class Deaf(Watch):
    """A machine that does not look at a VM when its mount's phase changes."""

    def _settle(self) -> set[str]:
        for mount in self.mounts.values():
            mount.touched.clear()
        return super()._settle()


class Impatient(Watch):
    """A machine that asks everything twice: its sixth sentence is broken."""

    def step(self, event: Event) -> list[Effect]:
        effects = super().step(event)
        return effects + [effect for effect in effects if isinstance(effect, Probe)]


class Trusting(Watch):
    """A machine that takes a lease for all that an earlier daemon knew: it did before the search found the story."""

    def _unjudged(self, info: VmInfo) -> bool:
        return False


@dataclass(frozen=True)
class Case:
    """A question, and what the answer must contain when the promise is to be broken; empty: it must hold."""

    name: str
    rules: Rules
    broken: str = ""
    watch: type[Watch] = Watch


BOTH_RUN, LANDS = "the VM runs on A and on B", "lands behind claim"

#: the promise, as README.md gives it
HOLDS = (
    Case("an honest server, a cut, a reboot, a start elsewhere", Rules()),
    Case("the daemon dies at any moment", Rules(restarts=1, slow_answers=False)),
    Case("the guest shuts down by itself and is started anew", Rules(ends=1, starts=2, reboots=0)),
    Case("the recovery database is an older one", Rules(older=True)),
    Case("the same, and the daemon dies at any moment", Rules(older=True, restarts=1, slow_answers=False)),
    Case("queued writes, a cut", Rules(writes=True, reboots=0)),
    Case("queued writes, no reboot within a client's recovery", Rules(writes=True, torn_recovery=False)),
    Case("the server forgets: both may run, no pinned write lands", Rules(forgets=True, writes=True, runs=False)),
)
#: limits that README.md states
LIMITS = (
    Case("the server forgets its clients", Rules(forgets=True), BOTH_RUN),
    Case("the grace period is ended by hand", Rules(grace_by_hand=True), BOTH_RUN),
    Case("the grace period is shorter than the lease", Rules(grace=0), BOTH_RUN),
    Case("the daemon is stopped", Rules(stops=1), BOTH_RUN),
    Case("an older database: one queued write lands", Rules(older=True, writes=True), LANDS),
    Case("a reboot within a client's recovery: one queued write lands", Rules(writes=True), LANDS),
    Case("on_at_risk: ignore", Rules(Setup(policy=Policy(on_at_risk=OnAtRisk.IGNORE))), BOTH_RUN),
    Case("log_only", Rules(Setup(policy=Policy(log_only=True))), BOTH_RUN),
    Case("disarmed", Rules(Setup(disarmed=True)), BOTH_RUN),
)
#: protections taken away
CONTROLS = (
    Case("no token, an honest server", Rules(Setup(token=False)), BOTH_RUN),
    Case("no token, an older database", Rules(Setup(token=False), older=True), BOTH_RUN),
    Case("no freeze", Rules(freezes=False), BOTH_RUN),
    Case("no pin", Rules(Setup(pinned=False), writes=True, reboots=0), LANDS),
    Case("a machine that reports nothing", Rules(), "without a report before it", Silent),
    Case("a machine that does not follow its mounts", Rules(), BOTH_RUN, Deaf),
    Case(
        "a daemon that trusts a fresh lease",
        Rules(older=True, restarts=1, slow_answers=False, both=False),
        BOTH_RUN,
        Trusting,
    ),
    Case("a machine that asks twice", Rules(), "a second request for one lock", Impatient),
)
#: the large ones, with --long
LONG = (
    Case("two cuts, two reboots, two starts", Rules(cuts=2, reboots=2, starts=2)),
    Case("the same with an older database", Rules(cuts=2, reboots=2, starts=2, older=True)),
    Case("the same, and the daemon dies", Rules(cuts=2, reboots=2, starts=2, older=True, restarts=1)),
)
