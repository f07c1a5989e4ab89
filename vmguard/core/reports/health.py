"""The health of a host in one line, and what to do now. Pure, and the only source of both.

Every command begins with this line and ends with ``do now:``. `systemctl status`, the JSON and the exit status have the
same, because all of them come from here: a ``HostState`` gives findings, and the worst finding gives the severity.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.local_time import after, local_time
from vmguard.core.reports.status import Status, worst
from vmguard.core.words import printable, shell_word

#: names that are listed; of more VMs the number is said
_MAX_NAMES = 3
#: characters of a name, and of a stranger's or an admin's text
_MAX_NAME, _MAX_TEXT = 40, 200
#: findings that a headline has room for
_MAX_FINDINGS = 4
#: phases of a lease (core/watchdog/states.py)
_LATE, _RECOVERING, _SILENT = "late", "recovering", ("at-risk", "expired")

FROZEN_NOTE = "virsh and qm call it running all the same, and virsh suspend waits for it"
REPLACED_TODO = "end the VM here if its disk was replaced on purpose; else move the old file back while it runs"
START_DAEMON = "systemctl start vmguard"


class VmState(NamedTuple):
    """What the health of a host depends on of one VM."""

    name: str
    #: of its claim
    state: str
    uuid: str = ""
    #: for certain, not only decided
    frozen: bool = False
    fencing: bool = False
    #: since when it is frozen: UTC, ISO; empty: not known
    since: str = ""
    #: the watchdog's reason
    why: str = ""
    #: the mounts that its disks are on, as far as they have a lease
    mounts: tuple[str, ...] = ()
    #: only a person lets it go on
    held: bool = False
    #: a disk of it is not what its path leads to any more
    replaced: bool = False
    #: a file of it has no lock, or a lock that is proven lost
    unlocked: bool = False
    #: why a lock of it is held beside QEMU only; empty: none is
    beside: str = ""
    #: the host that it is migrating from; empty when it is not
    incoming: str = ""


class MountState(NamedTuple):
    """The lease of one mount that a guarded VM depends on. Times in seconds."""

    name: str
    source: str
    phase: str
    #: since the last request was sent that the server has answered; None: it has answered none yet
    age: float | None = None
    freeze_in: float | None = None

    @property
    def server(self) -> str:
        return printable(nfs_server(self.source) or self.source or self.name)


def nfs_server(source: str) -> str:
    """Return the server of ``nas:/vm``; empty for a source that names none."""
    server, colon, _ = source.partition(":/")
    return server.strip("[]") if colon else ""


class Maintenance(NamedTuple):
    """Nothing is done to VMs for a while, on a person's order."""

    seconds: float
    reason: str
    by: str


@dataclass(frozen=True)
class Finding:
    """One thing that is to be said about a host."""

    severity: Status
    text: str
    do_now: str = ""


@dataclass(frozen=True)
class HostState:
    """All that the health of a host, or of one VM on it, is made of."""

    vms: Sequence[VmState] = ()
    mounts: Sequence[MountState] = ()
    #: VMs that were killed lately, and that nobody has acknowledged
    fenced: Sequence[FencedVm] = ()
    maintenance: Maintenance | None = None
    config_broken: bool = False
    #: why the daemon cannot be asked; empty when it can
    daemon_problem: str = ""
    #: what else is to be said
    more: Sequence[Finding] = ()

    def only(self, uuids: Iterable[str]) -> HostState:
        """Return the part of it that concerns some VMs."""
        wanted = set(uuids)
        vms = [vm for vm in self.vms if vm.uuid in wanted]
        points = {point for vm in vms for point in vm.mounts}
        return replace(
            self,
            vms=vms,
            mounts=[mount for mount in self.mounts if mount.name in points],
            fenced=[killed for killed in self.fenced if killed.uuid in wanted],
        )


@dataclass(frozen=True)
class Health:
    """How it stands, in words for people, and what to do now; ``do_now`` is empty when there is nothing."""

    severity: Status
    headline: str
    do_now: str = ""

    @property
    def line(self) -> str:
        return f"{self.severity.name}: {self.headline}"

    def as_json(self) -> dict[str, str]:
        return {"severity": self.severity.name, "headline": self.headline, "do_now": self.do_now}


def health(state: HostState, now: datetime.datetime, kept: bool = False) -> Health:
    """Return the health of a host. ``kept``: the line is shown for a while, so it has points in time and no ages."""
    return of_findings(findings(state, now, kept), _all_is_well(state.vms))


def of_findings(found: Iterable[Finding], all_is_well: str) -> Health:
    """Return what some findings come to, the worst first; ``all_is_well`` is the headline when there are none."""
    known = sorted(found, key=lambda finding: finding.severity.weight, reverse=True)
    if not known:
        return Health(Status.OK, all_is_well)
    texts = [finding.text for finding in known[:_MAX_FINDINGS]]
    if len(known) > _MAX_FINDINGS:
        texts.append(f"{len(known) - _MAX_FINDINGS} more")
    todo = next((finding.do_now for finding in known if finding.do_now), "")
    return Health(worst([finding.severity for finding in known]), "; ".join(texts), todo)


def findings(state: HostState, now: datetime.datetime, kept: bool = False) -> list[Finding]:
    """Return all that is to be said about a host, of equal severity the most urgent first."""
    told = _Telling(state, now, kept)
    return [*told.of_vms(), *told.of_fenced(), *told.of_mounts(), *told.of_host(), *state.more]


def few_descriptors(used: int, limit: int) -> Finding:
    """Return what is said when the daemon has hardly any file descriptor left."""
    text = f"the daemon has {used} of {limit} file descriptors in use, without one no VM can be started"
    return Finding(Status.WARNING, text, "raise LimitNOFILE: systemctl edit vmguard")


def undelivered(failing: Sequence[tuple[str, str]]) -> list[Finding]:
    """Return what is said of targets (name, since when) that get no messages."""
    if not failing:
        return []
    names = ", ".join(_shown(name) for name, _ in failing[:_MAX_NAMES])
    many = f"{len(failing)} targets ({names})" if len(failing) > 1 else names
    return [Finding(Status.WARNING, f"messages to {many} are not delivered", "vmguard notify status")]


class _Telling:
    """The findings of one state."""

    def __init__(self, state: HostState, now: datetime.datetime, kept: bool) -> None:
        self._state = state
        self._now = now
        self._kept = kept
        self._mounts = {mount.name: mount for mount in state.mounts}

    # -- VMs --------------------------------------------------------------------------------------------------------

    def of_vms(self) -> list[Finding]:
        groups: dict[Callable[[Sequence[VmState]], Finding], list[VmState]] = {}
        for vm in self._state.vms:
            for tell in self._kinds(vm):
                groups.setdefault(tell, []).append(vm)
        order = [self._fencing, self._conflict, self._frozen, self._held, self._replaced, self._unlocked, self._beside]
        return [tell(groups[tell]) for tell in order if tell in groups]

    def _kinds(self, vm: VmState) -> Iterable[Callable[[Sequence[VmState]], Finding]]:
        if vm.fencing:
            yield self._fencing
            return
        if vm.state == "conflict":
            yield self._conflict
        elif vm.frozen:
            yield self._held if vm.held else self._frozen
        if vm.replaced:
            yield self._replaced
        elif vm.unlocked and vm.state != "conflict":
            yield self._unlocked
        elif vm.beside:
            yield self._beside

    def _fencing(self, vms: Sequence[VmState]) -> Finding:
        text = f"{_names(vms)} {_is(vms)} being killed (fenced)"
        return Finding(Status.CRITICAL, text, "wait for its end, start it nowhere until then: vmguard history")

    def _conflict(self, vms: Sequence[VmState]) -> Finding:
        frozen = [vm for vm in vms if vm.frozen]
        still = f", frozen{self._since(frozen)}" if frozen else ""
        text = f"{_names(vms)} in conflict{still}: another host has a disk that it writes to"
        return Finding(Status.CRITICAL, text, f"end one of the two, then: vmguard adopt {_one(vms)}")

    def _frozen(self, vms: Sequence[VmState]) -> Finding:
        head = f"{_names(vms)} frozen{self._since(vms)}"
        they = "They go on by themselves" if len(vms) > 1 else "It goes on by itself"
        if self._state.daemon_problem:
            return Finding(Status.CRITICAL, f"{head}, and no daemon is there to let it go on", START_DAEMON)
        waits = [self._mounts[point] for vm in vms for point in vm.mounts if point in self._mounts]
        silent = [mount for mount in waits if mount.phase in _SILENT]
        if silent:
            text = f"{head}, {', '.join(dict.fromkeys(map(self._silence, silent)))}"
            servers = " and ".join(dict.fromkeys(mount.server for mount in silent))
            return Finding(Status.CRITICAL, text, f"nothing on this host; get {servers} up. {they}.")
        answering = list(dict.fromkeys(mount.server for mount in waits if mount.phase == _RECOVERING))
        if answering:
            text = f"{head}, {' and '.join(answering)} answers again, each lock is being asked"
            return Finding(Status.CRITICAL, text, f"nothing. {they} once the locks are proven.")
        why = next((vm.why for vm in vms if vm.why), "its locks are not proven")
        return Finding(Status.CRITICAL, f"{head}: {_cut(why)}", f"vmguard check {_one(vms)}")

    def _held(self, vms: Sequence[VmState]) -> Finding:
        text = f"{_names(vms)} frozen{self._since(vms)} over a conflict that has ended"
        return Finding(Status.CRITICAL, text, f"look at its disks; vmguard adopt {_one(vms)} lets it go on, or end it")

    def _replaced(self, vms: Sequence[VmState]) -> Finding:
        text = f"{_names(vms)} {_run(vms)} on a file that is not the disk at its path any more"
        return Finding(Status.CRITICAL, text, REPLACED_TODO)

    def _unlocked(self, vms: Sequence[VmState]) -> Finding:
        text = f"{_names(vms)} UNGUARDED: a disk has no lock"
        return Finding(Status.CRITICAL, text, f"vmguard adopt {_one(vms)} locks it again, or says who has it")

    def _beside(self, vms: Sequence[VmState]) -> Finding:
        text = f"{_names(vms)} locked beside QEMU only ({_cut(vms[0].beside)})"
        return Finding(Status.WARNING, text, f"vmguard check {_one(vms)}")

    # -- the rest ---------------------------------------------------------------------------------------------------

    def of_fenced(self) -> list[Finding]:
        running = {vm.uuid for vm in self._state.vms if vm.state == "running"}
        found = []
        for killed, again in ((True, False), (False, True)):
            vms = [vm for vm in self._state.fenced if (vm.uuid in running) is again]
            if killed and vms:
                found.append(Finding(Status.CRITICAL, self._killed(vms), _ACKNOWLEDGE))
            elif vms:
                found.append(Finding(Status.WARNING, f"{self._killed(vms)}, running again", _ACKNOWLEDGE))
        return found

    def _killed(self, vms: Sequence[FencedVm]) -> str:
        at = local_time(vms[-1].at, self._now)
        return f"{_title([vm.name for vm in vms])} killed (fenced) at {at}"

    def of_mounts(self) -> list[Finding]:
        waited_for = {point for vm in self._state.vms if vm.frozen or vm.fencing for point in vm.mounts}
        found = []
        for mount in self._state.mounts:
            if mount.phase in _SILENT and mount.name not in waited_for:
                text = f"{self._silence(mount)}: another host may get the locks, and no VM is frozen"
                found.append(Finding(Status.CRITICAL, text, f"get {mount.server} up"))
            elif mount.phase == _LATE and mount.age is not None and mount.name not in waited_for:
                found.append(self._late(mount))
        return found

    def _late(self, mount: MountState) -> Finding:
        if self._state.maintenance is not None or mount.freeze_in is None:
            soon = ""
        elif self._kept:
            soon = f"; its VMs are frozen at {local_time(after(self._now, mount.freeze_in), self._now)} if it stays so"
        else:
            soon = f"; its VMs are frozen in {mount.freeze_in:.0f} s if it stays so"
        return Finding(Status.WARNING, f"{self._silence(mount)}{soon}", f"look after {mount.server}")

    def of_host(self) -> list[Finding]:
        state, found = self._state, []
        if state.daemon_problem and state.vms:
            keep = "keeps its locks" if len(state.vms) == 1 else "keep their locks"
            text = f"{_cut(state.daemon_problem)}: {_names(state.vms)} {keep}, and nobody watches the leases"
            found.append(Finding(Status.CRITICAL, text, START_DAEMON))
        elif state.daemon_problem:
            found.append(Finding(Status.WARNING, _cut(state.daemon_problem), START_DAEMON))
        if state.maintenance is not None:
            until = local_time(after(self._now, state.maintenance.seconds), self._now)
            order = f"{_cut(state.maintenance.reason)}, by {_cut(state.maintenance.by)}"
            text = f"maintenance until {until}, no VM is frozen or fenced ({order})"
            found.append(Finding(Status.WARNING, text, "vmguard arm, once it is over"))
        if state.config_broken:
            text = "the configuration has a mistake, the last good one is in force"
            found.append(Finding(Status.WARNING, text, "vmguard config check"))
        return found

    def _since(self, vms: Sequence[VmState]) -> str:
        times = sorted(vm.since for vm in vms if vm.since)
        return f" since {local_time(times[0], self._now)}" if times else ""

    def _silence(self, mount: MountState) -> str:
        if mount.age is None:
            return f"{mount.server} silent"
        if self._kept:
            return f"{mount.server} silent since {local_time(after(self._now, -mount.age), self._now)}"
        return f"{mount.server} silent for {mount.age:.0f} s"


_ACKNOWLEDGE = "vmguard history says why; vmguard history --acknowledge, once it is settled"


def _all_is_well(vms: Sequence[VmState]) -> str:
    if not vms:
        return "this host guards no VM"
    coming = [vm for vm in vms if vm.incoming]
    hosts = ", ".join(dict.fromkeys(_cut(vm.incoming) for vm in coming))
    arriving = f", {len(coming)} of them coming in from {hosts}" if coming else ""
    return f"guarding {len(vms)} VM{'s' * (len(vms) != 1)}{arriving}"


def _names(vms: Sequence[VmState]) -> str:
    return _title([vm.name for vm in vms])


def _title(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"VM '{_shown(names[0])}'"
    listed = f" ({', '.join(map(_shown, names))})" if len(names) <= _MAX_NAMES else ""
    return f"{len(names)} VMs{listed}"


def _one(vms: Sequence[VmState]) -> str:
    return shell_word(vms[0].name) if len(vms) == 1 else "VM"


def _is(vms: Sequence[VmState]) -> str:
    return "is" if len(vms) == 1 else "are"


def _run(vms: Sequence[VmState]) -> str:
    return "runs" if len(vms) == 1 else "run"


def _shown(name: str) -> str:
    return printable(name[:_MAX_NAME])


def _cut(text: str) -> str:
    return printable(text[:_MAX_TEXT])
