"""The first and the last line of each command: how this host stands, and what to do now."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmguard.cli import past
from vmguard.cli.output import Output
from vmguard.core.reports import health as words
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.health import FROZEN_NOTE, Finding, Health, HostState
from vmguard.core.reports.status import Status
from vmguard.core.words import vm_title
from vmguard.query import ask_daemon, host_state, other_mounts
from vmguard.query.answers import NO_HEALTH, HealthAnswer, Known, VmAnswer
from vmguard.query.other_mounts import OnOtherMount
from vmguard.query.places import Places


@dataclass(frozen=True)
class Answers:
    """What the daemon says: its VMs, its health, and why it cannot be asked (empty when it can).

    ``fenced``: VMs that were fenced, which nobody has acknowledged yet. ``more``: what the daemon does not know.
    """

    vms: Sequence[VmAnswer] = ()
    health: HealthAnswer = NO_HEALTH
    problem: str = ""
    fenced: Sequence[FencedVm] = ()
    more: Sequence[Finding] = ()

    def with_other_mounts(self, others: Mapping[str, Sequence[OnOtherMount]] | None = None) -> Answers:
        """Add what the daemon does not tell: VMs that write where no lock is proven to keep other hosts out."""
        found = on_other_mounts(self) if others is None else others
        names = [name for name, files in found.items() if files]
        if not names:
            return self
        text = f"{vm_title(names[0])} writes" if len(names) == 1 else f"{len(names)} VMs write"
        finding = Finding(Status.WARNING, f"{text} to a mount where no lock is proven to keep other hosts out")
        return dataclasses.replace(self, more=[*self.more, finding])

    @property
    def known(self) -> Known:
        return Known(self.vms, self.health, self.problem)

    @property
    def state(self) -> HostState:
        return host_state.of(self.known, self.fenced, self.more)

    def line(self, uuids: Sequence[str] | None = None) -> Health:
        """Return the health line of this host, or of some of its VMs."""
        state = self.state if uuids is None else self.state.only(uuids)
        return words.health(state, datetime.datetime.now(datetime.UTC))


def ask(where: Places) -> Answers:
    """Ask the daemon, or its state files while it is down. Raises DaemonForbidden when this user may not."""
    vms, health, problem = ask_daemon.everything(where)
    return Answers(vms, health, problem, past.fenced(where, health))


def on_other_mounts(answers: Answers) -> dict[str, list[OnOtherMount]]:
    """Return, by VM, the files on such mounts."""
    return {vm.name: other_mounts.of_vm(vm, not answers.problem) for vm in answers.vms}


def begin(found: Health, out: Output) -> None:
    """Print the first line."""
    out.status(found.severity.name, found.headline)


def end(found: Health, out: Output, frozen: bool = False) -> None:
    """Print the last line, if there is something to do. ``frozen``: a VM is, and its hypervisor does not know."""
    if frozen:
        out.line(f"note: {FROZEN_NOTE}")
    if found.do_now:
        out.line(f"do now: {found.do_now}")
