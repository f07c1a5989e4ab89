"""Finds the processes that do I/O for VMs and that nobody announced: VMs without their hook, helpers of guarded VMs.

Hooks fail open: one that was added later, deleted or made not executable is simply not run. So this looks for itself,
every few seconds, at what /proc shows of each process. No request is made to any server.

Program, short name and the links of descriptors are read in the loop. Arguments are another process's memory, and to
read them may never end (adapters/linux/may_block.py): they are asked for only of a process that looks like QEMU, a
helper, or an interpreter that may stand in for one, and come later, from a thread. A process that does not tell its
arguments stays unknown, and all others are found meanwhile.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from vmguard.adapters import hypervisors
from vmguard.adapters.linux import host_identity as host
from vmguard.adapters.linux import proc
from vmguard.adapters.linux.proc import CommandLine, Key, OpenFile
from vmguard.config.settings import Unguarded
from vmguard.core import BARE
from vmguard.core.locks.claim_states import LIVING, State
from vmguard.core.sources.process_arguments import (
    MASTERS,
    Kind,
    Likelihood,
    identity,
    kind_of,
    likelihood,
    named_files,
    served,
)
from vmguard.daemon.claim.lifecycle import Keeper
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import ANOTHER_HOST, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.command_lines import CommandLines, Lane
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.scan.periodic import LATEST
from vmguard.daemon.scan.process_fds import Sight

log = logging.getLogger("vmguard.unguarded")

#: seconds between two rounds: what a VM opens is pinned in time also when it is the first file that it has on a share
_EVERY = LATEST
#: rounds after which the program of a process that is no QEMU is asked again: it may have become one (exec)
_PATIENCE = 8
_LANES = {Likelihood.LIKELY: Lane.LIKELY, Likelihood.POSSIBLE: Lane.POSSIBLE}


@dataclass
class Stranger:
    """A process that looks like QEMU, or like one of its helpers, and belongs to no guarded VM."""

    line: CommandLine
    birth: int
    kind: Kind
    sight: Sight
    #: what it has open that a lock may guard
    files: list[OpenFile]
    told: bool = False

    @property
    def pid(self) -> int:
        return self.line.pid

    @property
    def arguments(self) -> list[str]:
        return self.line.arguments


class Census:
    """Counts all processes of this host again and again."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        keeper: Keeper,
        pinner: Pinner,
        command_lines: CommandLines,
        settings: Callable[[], Unguarded],
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._keeper = keeper
        self._pinner = pinner
        self._command_lines = command_lines
        self._settings = settings
        self._strangers: dict[int, Stranger] = {}
        #: pid: its birth, the round in which it is asked again, and the pause after that
        self._others: dict[int, tuple[int, int, int]] = {}
        #: pid: birth and lane of those whose arguments were asked for and have not come yet
        self._asked: dict[int, tuple[int, Lane]] = {}
        #: pid and birth of those that hang, and of whom a person was told
        self._silent: set[tuple[int, int]] = set()
        self._rounds = 0

    def start(self) -> None:
        """Begin to count. The first count is the loop's first work, not the start's: the daemon is ready before."""
        self._loop.call_in(0.0, self._go_on)

    def _go_on(self) -> None:
        self._loop.call_in(_EVERY, self._go_on)
        self.round()

    def round(self) -> None:
        """Look at all processes, take up what runs unguarded."""
        self.count()
        for stranger in list(self._strangers.values()):
            self._consider(stranger)

    def _consider(self, stranger: Stranger) -> None:
        if stranger.kind is not Kind.QEMU and self._join(stranger):
            return
        if stranger.kind in MASTERS and self.on_share(stranger):
            self._meet(stranger)

    def strangers(self) -> list[Stranger]:
        """Those that may run a VM of their own, as of the last count."""
        return [stranger for stranger in self._strangers.values() if stranger.kind in MASTERS]

    def is_complete(self) -> bool:
        """Return whether the arguments of all processes are known that were counted last, but for those that hang."""
        return all(self._command_lines.hangs(lane, pid) for pid, (_, lane) in self._asked.items())

    def hangs(self, pid: int) -> bool:
        """Return whether a process does not tell its arguments."""
        return pid in self._asked and self._command_lines.hangs(self._asked[pid][1], pid)

    # -- counting ---------------------------------------------------------------------------------------------------

    def count(self) -> None:
        self._rounds += 1
        guarded = {process.pid for vm in self._registry for process in vm.processes}
        births = proc.births()
        for pid, birth in births:
            known = self._strangers.get(pid)
            if known is not None and (known.birth != birth or pid in guarded):
                self._forget(pid)
                known = None
            if known is not None:
                self._refresh(known)
            elif pid not in guarded:
                self._ask(pid, birth)
        alive = {pid for pid, _ in births}
        for pid in self._strangers.keys() - alive:
            self._forget(pid)
        for pid in self._others.keys() - alive:
            del self._others[pid]
        for pid in self._asked.keys() - alive:
            del self._asked[pid]
        self._report_silent()

    def _report_silent(self) -> None:
        """Tell once of each process that is called like QEMU and does not tell its arguments."""
        hanging = {(pid, birth) for pid, (birth, lane) in self._asked.items() if self._command_lines.hangs(lane, pid)}
        for pid, _ in sorted(hanging - self._silent):
            log.warning(
                "pid %d (%s) does not tell its arguments, its memory is locked (a page fault on a share that does not "
                "answer does that); whether it is an unguarded VM is not known yet",
                pid,
                proc.name(pid),
            )
        self._silent = hanging

    def _refresh(self, stranger: Stranger) -> None:
        if stranger.sight.changed():
            stranger.files = stranger.sight.full(self._pinner.tables)

    def _ask(self, pid: int, birth: int) -> None:
        before, due, _ = self._others.get(pid, (-1, 0, 0))
        if before == birth and self._rounds < due:
            return
        if self._asked.get(pid, (-1,))[0] == birth:
            return
        lane = _LANES.get(likelihood(proc.program(pid), proc.name(pid)))
        if lane is None:
            self._is_other(pid, birth)
            return
        self._asked[pid] = (birth, lane)
        self._command_lines.ask(lane, pid, functools.partial(self._answered, pid, birth))

    def _is_other(self, pid: int, birth: int) -> None:
        before, _, pause = self._others.get(pid, (-1, 0, 0))
        pause = min(2 * pause, _PATIENCE) if before == birth and pause else 1
        self._others[pid] = (birth, self._rounds + pause, pause)

    def _answered(self, pid: int, birth: int, line: CommandLine | None) -> None:
        """The arguments of a process are known, or it is gone."""
        if self._asked.get(pid, (-1,))[0] != birth:
            return
        del self._asked[pid]
        if line is None or any(vm.process(pid) for vm in self._registry):
            return
        kind = kind_of(line.program, line.arguments) if line.arguments else None
        if kind is None:
            self._is_other(pid, birth)
            return
        self._others.pop(pid, None)
        try:
            sight = Sight(pid)
        except OSError:
            return
        stranger = self._strangers[pid] = Stranger(line, birth, kind, sight, sight.full(self._pinner.tables))
        self._consider(stranger)

    def _forget(self, pid: int) -> None:
        self._strangers.pop(pid).sight.close()

    def on_share(self, stranger: Stranger) -> bool:
        """Whether it writes to an image on NFS."""
        shares = self._pinner.tables.shares()
        return any(
            user.key[0] in shares and user.info.writable and self._pinner.is_image(stranger.kind, user)
            for user in stranger.files
        )

    # -- taking up --------------------------------------------------------------------------------------------------

    def _meet(self, stranger: Stranger) -> None:
        if self._claimed(stranger):
            return
        if self._settings().take_up:
            self.take_up(stranger, "started without its hook")
        elif not stranger.told:
            stranger.told = True
            about = identity(stranger.arguments)
            log.warning(
                "pid %d (VM %r) runs UNGUARDED, without a claim: vmguard adopt --pid %d",
                stranger.pid,
                about.name or about.uuid,
                stranger.pid,
            )

    def _claimed(self, stranger: Stranger) -> bool:
        """Whether it is the QEMU that a claim waits for, or may be; then it is no business of ours."""
        about = identity(stranger.arguments)
        keys = {user.key for user in stranger.files if user.info.writable}
        for vm in self._registry:
            if vm.state in LIVING or vm.state is State.RELEASING:
                continue
            has_its_disk = any(file.key in keys and file.guard.descriptor is not None for file in vm.files)
            if vm.rebuilt and (vm.uuid == about.uuid or has_its_disk):
                vm.name = about.name or vm.name
                return self._runs(vm, stranger) or has_its_disk
            if vm.uuid == about.uuid and vm.state in (State.CLAIMED, State.ENDED):
                return self._runs(vm, stranger)
            if vm.uuid == about.uuid or has_its_disk:
                return True
        return False

    def _runs(self, vm: GuardedVm, stranger: Stranger) -> bool:
        """Tell the keeper that a VM runs in this process; False when it is not the VM's after all."""
        known, run_dirs = hypervisors.by_name(vm.hypervisor), self._keeper.timing.run_dirs
        is_its = stranger.kind is not Kind.QEMU or known.is_qemu_of(run_dirs, stranger.arguments, vm.uuid)
        return is_its and self._keeper.runs(vm, stranger.pid, stranger.kind, stranger.line.started)

    def take_up(self, stranger: Stranger, why: str, extra: frozenset[Key] = frozenset()) -> GuardedVm | None:
        """Guard it from now on, without touching it; None when it is gone.

        ``extra``: files that are images for certain; the others are found, and looked at for a moment, by the pinner.
        """
        about = identity(stranger.arguments)
        manager = hypervisors.manager_of(self._keeper.timing.run_dirs, stranger.line)
        hypervisor, vm_uuid = manager.name, manager.id_of(about)  # as its hook and its task would call it
        if not vm_uuid or self._registry.get(f"{hypervisor}-{vm_uuid}") is not None:
            hypervisor = BARE
            birth = f"{host.boot_id()} {stranger.pid} {stranger.line.started}"
            vm_uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, birth))
        name = about.name or about.vmid or f"{proc.name(stranger.pid)}-{stranger.pid}"
        vm = GuardedVm(hypervisor, name, vm_uuid, state=State.CLAIMED, why=why, without_hook=why)
        vm.incoming = ANOTHER_HOST if about.incoming else ""
        vm.files = [self._pinner.discovered([user]) for user in _once(stranger.files) if user.key in extra]
        log.warning("%s (pid %d): %s; it is guarded from now on", vm.title, stranger.pid, why)
        self._registry.take_up(vm)
        if self._runs(vm, stranger):
            return vm
        self._registry.remove(vm)
        return None

    def images(self, stranger: Stranger, local: bool) -> list[GuardedFile]:
        """Its files that a lock should guard. ``local``: those on this host's own file systems, too, if they are
        images for certain: named as such by the arguments, or locked by QEMU itself."""
        named = named_files(stranger.arguments) if local else set()
        shares = self._pinner.tables.shares()
        smb = self._pinner.tables.smb()
        chosen = [
            user
            for user in _once(stranger.files)
            if user.path in named or ((local or user.key[0] in shares) and self._pinner.is_image(stranger.kind, user))
        ]
        return [self._pinner.discovered([user]) for user in chosen if user.key[0] not in smb]

    def _join(self, stranger: Stranger) -> bool:
        """A helper belongs to the VM that its arguments name, or whose file it has open."""
        names = served(stranger.arguments)
        keys = {user.key for user in stranger.files}
        for vm in self._registry:
            if vm.state not in LIVING:
                continue
            named = hypervisors.by_name(vm.hypervisor).names_vm(names, vm.name, vm.uuid)
            if named or any(file.key in keys for file in vm.files):
                if self._keeper.follow(vm, stranger.pid, stranger.kind, stranger.line.started):
                    log.info("%s: its helper %s is followed, too", vm.title, vm.processes[-1].title)
                    self._registry.save(vm)
                    self._pinner.attend(vm)
                return True
        return False


def _once(files: list[OpenFile]) -> list[OpenFile]:
    """Each file once, its writer first."""
    found: dict[Key, OpenFile] = {}
    for user in files:
        if user.key not in found or user.info.writable:
            found[user.key] = user
    return list(found.values())
