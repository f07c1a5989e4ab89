"""Find processes that do I/O for VMs without a claim: VMs that ran no hook, and helpers of guarded VMs.

Hooks fail open: one that was added later, deleted or made not executable is simply not run. So the daemon scans /proc
itself, at short intervals. No request is sent to any server.

What a process says of itself makes it nobody's VM. It is taken up as a hypervisor's only if the chain of
adapters/hypervisors.py proves that; root's QEMU without that chain is taken up as nobody's VM (bare). The QEMU of an
ordinary user is only reported: whatever the daemon kept for it that user could have it keep, as much as he likes. A
person adopts it by its pid.

Program, short name and the links of descriptors are read in the loop. Arguments are another process's memory, and
reading them may never end (adapters/linux/may_block.py). So a thread reads them, only for a process that looks like
QEMU, a helper, or an interpreter that may run as one. A process whose arguments cannot be read stays unknown; all
others are found meanwhile.
"""

from __future__ import annotations

import functools
import logging
import os
import uuid
from collections.abc import Callable

from vmguard.adapters import hypervisors
from vmguard.adapters.hypervisor import Hypervisor, RunDirs
from vmguard.adapters.linux import host_identity as host
from vmguard.adapters.linux import proc, standing
from vmguard.adapters.linux.proc import CommandLine, Key
from vmguard.adapters.linux.standing import Standing
from vmguard.config.settings import Unguarded
from vmguard.core import BARE
from vmguard.core.locks.claim_states import LIVING, WITHOUT_HOOK, State
from vmguard.core.sources.process_arguments import (
    MASTERS,
    Kind,
    Likelihood,
    kind_of,
    likelihood,
    named_files,
    telling,
)
from vmguard.daemon.adopt.few_warnings import FewWarnings
from vmguard.daemon.adopt.other_processes import MAX_PAUSE_ROUNDS, OtherProcesses, has_kvm_vm
from vmguard.daemon.adopt.unclaimed_process import UnclaimedProcess, most_kept, once
from vmguard.daemon.claim.kinship import Families, is_named_helper, may_serve
from vmguard.daemon.claim.lifecycle import ClaimLifecycle
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import ANOTHER_HOST, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.command_lines import CommandLines, Lane
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.scan.periodic import MAX_INTERVAL_S
from vmguard.daemon.scan.process_fds import descriptions
from vmguard.daemon.scan.turns import Turns

log = logging.getLogger("vmguard.adopt")

#: interval of the counts: a VM's first file on a share must be pinned within the promise, too
_INTERVAL_S = MAX_INTERVAL_S
#: by likelihood, and whether a stranger could have started the process
_LANES = {
    (Likelihood.LIKELY, False): Lane.TRUSTED,
    (Likelihood.POSSIBLE, False): Lane.TRUSTED_POSSIBLE,
    (Likelihood.LIKELY, True): Lane.LIKELY,
    (Likelihood.POSSIBLE, True): Lane.POSSIBLE,
}
#: age at which a QEMU is taken for nobody's, whose own hypervisor would have vouched for it by then
_VOUCHED_BY_S = 10.0


class UnclaimedQemus:
    """The unclaimed processes of this host, counted at each interval."""

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        lifecycle: ClaimLifecycle,
        pinner: Pinner,
        command_lines: CommandLines,
        settings: Callable[[], Unguarded],
        qemu_users: Callable[[], frozenset[int]],
        has_room: Callable[[], bool] = lambda: True,
        warn: FewWarnings | None = None,
    ) -> None:
        """``qemu_users``: as whom hypervisors run QEMU. ``has_room``: whether descriptors are left for another one."""
        self._has_room = has_room
        self._turns = Turns()
        self._loop = loop
        self._registry = registry
        self._lifecycle = lifecycle
        self._pinner = pinner
        self._command_lines = command_lines
        self._settings = settings
        self._qemu_users = qemu_users
        self._unclaimed: dict[int, UnclaimedProcess] = {}
        self._others = OtherProcesses()
        self._warn = warn or FewWarnings(loop.now)
        #: by pid: birth and lane of the processes whose arguments are being read
        self._asked: dict[int, tuple[int, Lane]] = {}
        #: pid and birth of processes whose read hangs, which was logged
        self._silent: set[tuple[int, int]] = set()
        self._rounds = 0
        #: of the guarded VMs, as of the last count
        self._families = Families(())

    def start(self) -> None:
        """Begin to count. The first count runs in the loop, not in the start: the daemon is ready before it."""
        self._loop.call_in(0.0, self._go_on)

    def _go_on(self) -> None:
        self._loop.call_in(_INTERVAL_S, self._go_on)
        self.round()

    def round(self) -> None:
        """Count all processes, and take up those that run unguarded."""
        self.count()
        for process in list(self._unclaimed.values()):
            if self._is_due(process):
                self._consider(process)

    def _is_due(self, process: UnclaimedProcess) -> bool:
        """Return whether to look at a process in this round: rarely at an ordinary user's, who can have many."""
        return process.is_trusted or (self._rounds + process.pid) % MAX_PAUSE_ROUNDS == 0

    def _consider(self, process: UnclaimedProcess) -> None:
        if self._join(process):
            return
        if process.kind in MASTERS and self.on_share(process):
            self._meet(process)

    def unclaimed(self) -> list[UnclaimedProcess]:
        """Return the processes that may run a VM of their own, as of the last count."""
        return [process for process in self._unclaimed.values() if process.kind in MASTERS]

    def is_complete(self) -> bool:
        """Return whether the arguments of all counted processes are known, except for reads that hang."""
        return all(self._command_lines.hangs(lane, pid) for pid, (_, lane) in self._asked.items())

    def hangs(self, pid: int) -> bool:
        """Return whether the read of a process's arguments hangs."""
        return pid in self._asked and self._command_lines.hangs(self._asked[pid][1], pid)

    # -- counting ---------------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Find new unclaimed processes, refresh the known ones, forget those that ended."""
        self._rounds += 1
        self._families = Families(self._registry)
        self._others.begin_round(self._run_dirs)
        guarded = {process.pid for vm in self._registry for process in vm.processes}
        births = proc.births()
        for pid, birth in births:
            known = self._unclaimed.get(pid)
            if known is not None and (known.birth != birth or pid in guarded):
                self._forget(pid)
                known = None
            if known is None and pid not in guarded:
                self._ask(pid, birth)
        alive = {pid for pid, _ in births}
        for pid in self._unclaimed.keys() - alive:
            self._forget(pid)
        self._others.only(alive)
        for pid in self._asked.keys() - alive:
            del self._asked[pid]
        due = [pid for pid, process in self._unclaimed.items() if self._is_due(process)]
        self._turns.go_round(due, self._refresh)
        self._report_silent()

    def _report_silent(self) -> None:
        """Warn once of each process that looks like QEMU and whose arguments cannot be read."""
        hanging = {(pid, birth) for pid, (birth, lane) in self._asked.items() if self._command_lines.hangs(lane, pid)}
        for pid, _ in sorted(hanging - self._silent):
            self._warn(
                "pid %d (%s) does not tell its arguments, its memory is locked (a page fault on a share that does not "
                "answer does that); whether it is an unguarded VM is not known yet",
                pid,
                proc.name(pid),
            )
        self._silent = hanging

    def _refresh(self, pid: int) -> None:
        """Look at what a process has open. A user's process can have as much as it likes, only to be looked at."""
        process = self._unclaimed[pid]
        if process.fds.changed():
            process.files = process.fds.full(self._pinner.tables, process.limits)

    def _ask(self, pid: int, birth: int) -> None:
        if self._others.rests(pid, birth, self._rounds) or self._asked.get(pid, (-1,))[0] == birth:
            return
        program = proc.program(pid)
        looks = likelihood(program, proc.name(pid))
        if looks is not Likelihood.LIKELY and self._others.may_run_a_vm(pid, birth, program):
            looks = Likelihood.LIKELY
        found = standing.of(pid) if looks is not Likelihood.NONE else None
        if found is None:
            self._others.note(pid, birth, self._rounds, program)
            return
        lane = _LANES[looks, not self._is_trusted(found)]
        self._asked[pid] = (birth, lane)
        owner = "" if found.is_root and found.scope is None else found.owner
        self._command_lines.ask(lane, pid, functools.partial(self._answered, pid, birth), owner)

    def _is_trusted(self, found: Standing) -> bool:
        return found.is_root or found.scope is not None or found.runs_as(self._qemu_users())

    def _answered(self, pid: int, birth: int, line: CommandLine | None) -> None:
        """Take in a process's arguments; ``line`` is None when it is gone."""
        if self._asked.get(pid, (-1,))[0] != birth:
            return
        del self._asked[pid]
        if line is None or any(vm.process(pid) for vm in self._registry):
            return
        kind = self._kind_of(line)
        if kind is None:
            self._others.note(pid, birth, self._rounds, line.program)
            return
        found = standing.of(pid)
        if found is None or found.started != line.started:
            return
        line = CommandLine(pid, line.started, line.program, telling(line.arguments, most_kept(found)))
        self._others.forget(pid)
        if not self._has_room():
            return
        try:
            fds = self._pinner.fds_of(pid)
        except OSError:
            return
        ancestors = frozenset(standing.ancestors(pid))
        process = UnclaimedProcess(line, birth, kind, found, fds, ancestors, self._is_trusted(found))
        self._unclaimed[pid] = process
        if self._turns.look(pid, self._refresh):  # else in one of the next rounds
            self._consider(process)

    def _kind_of(self, line: CommandLine) -> Kind | None:
        """Return what a process does for a VM: by its names, else by what no other process can have."""
        kind = kind_of(line.program, line.arguments) if line.arguments else None
        if kind is None and (hypervisors.manager_of(self._run_dirs, line).has_hook or has_kvm_vm(line.pid)):
            return Kind.QEMU
        return kind

    def _forget(self, pid: int) -> None:
        self._unclaimed.pop(pid).fds.close()

    def on_share(self, process: UnclaimedProcess) -> bool:
        """Return whether a process writes to an image on NFS."""
        shares = self._pinner.tables.shares()
        return any(
            user.key[0] in shares and user.info.writable and self._pinner.unannounced.is_image(process.kind, user)
            for user in process.files
        )

    # -- taking up --------------------------------------------------------------------------------------------------

    def _meet(self, process: UnclaimedProcess) -> None:
        manager = hypervisors.manager_of(self._run_dirs, process.line)
        if self._claimed(process, manager):
            return
        is_strangers = _is_strangers(process, manager)
        if not manager.has_hook and not is_strangers and self._may_be_vouched_for_soon(process):
            return
        if self._settings().take_up and not is_strangers:
            self.take_up(process, WITHOUT_HOOK)
        elif not process.told:
            process.told = True
            self._warn(
                "pid %d (VM %r%s) runs UNGUARDED, without a claim: vmguard adopt --pid %d",
                process.pid,
                process.title,
                f", {process.standing.owner}, which no hypervisor of this host vouches for" if is_strangers else "",
                process.pid,
                code="vm.unguarded",
            )

    def is_strangers(self, process: UnclaimedProcess) -> bool:
        """Return whether a process is an ordinary user's, and no hypervisor's: it is guarded only by its pid."""
        return _is_strangers(process, hypervisors.manager_of(self._run_dirs, process.line))

    @property
    def _run_dirs(self) -> RunDirs:
        return self._lifecycle.timing.run_dirs

    def _may_be_vouched_for_soon(self, process: UnclaimedProcess) -> bool:
        age = self._loop.now() - process.standing.started / os.sysconf("SC_CLK_TCK")
        return age < _VOUCHED_BY_S and hypervisors.may_come_late(self._run_dirs, process.line)

    def _claimed(self, process: UnclaimedProcess, manager: Hypervisor) -> bool:
        """Return whether a process is, or may be, the QEMU that a claim waits for: then it is left to the claim."""
        proven = () if _is_strangers(process, manager) else (manager.name, manager.id_of(process.about))
        keys = {user.key for user in process.files if user.info.writable}
        for vm in self._registry:
            if vm.state in LIVING or vm.state is State.RELEASING:
                continue
            is_its = (vm.hypervisor, vm.uuid) == proven
            has_its_disk = any(file.key in keys and file.guard.descriptor is not None for file in vm.files)
            if vm.rebuilt and (is_its or (has_its_disk and self._may_run(vm, process))):
                vm.name = _name_of(process, manager) if process.title else vm.name
                return self._runs(vm, process) or has_its_disk
            if is_its and vm.state in (State.CLAIMED, State.ENDED):
                return self._runs(vm, process)
            if is_its or has_its_disk:
                return True
        return False

    def _may_run(self, vm: GuardedVm, process: UnclaimedProcess) -> bool:
        """Return whether a process that has a disk of a VM may be its QEMU: it is root's, or has our lock already."""
        if process.standing.is_root:
            return True
        held = {file.key: file.pieces for file in vm.files}
        return any(descriptions([user])[0].holds_some(held.get(user.key, [])) for user in process.files)

    def _runs(self, vm: GuardedVm, process: UnclaimedProcess) -> bool:
        """Note that a VM runs in this process. Return False when the process is not the VM's after all."""
        known = hypervisors.by_name(vm.hypervisor)
        is_its = process.kind is not Kind.QEMU or known.is_qemu_of(self._run_dirs, process.arguments, vm.uuid)
        return is_its and self._lifecycle.runs(vm, process.pid, process.kind, process.line.started)

    def take_up(self, process: UnclaimedProcess, why: str, extra: frozenset[Key] = frozenset()) -> GuardedVm | None:
        """Guard a process's VM from now on, without touching it. Return the VM; None when the process is gone.

        ``extra``: files that are certainly images; the pinner finds the others once they have settled.
        """
        about = process.about
        manager = hypervisors.manager_of(self._run_dirs, process.line)
        hypervisor, vm_uuid = manager.name, manager.id_of(about)  # as its hook and its task would call it
        if _is_strangers(process, manager) or not vm_uuid or self._registry.get(f"{hypervisor}-{vm_uuid}") is not None:
            hypervisor = BARE
            birth = f"{host.boot_id()} {process.pid} {process.line.started}"
            vm_uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, birth))
        name = _name_of(process, manager)
        vm = GuardedVm(hypervisor, name, vm_uuid, state=State.CLAIMED, why=why, without_hook=why)
        vm.incoming = ANOTHER_HOST if about.incoming else ""
        vm.files = [self._pinner.discovered([user]) for user in once(process.files) if user.key in extra]
        log.warning("%s (pid %d): %s; it is guarded from now on", vm.title, process.pid, why)
        self._registry.take_up(vm)
        if self._runs(vm, process):
            return vm
        self._registry.remove(vm)
        return None

    def images(self, process: UnclaimedProcess, local: bool) -> list[GuardedFile]:
        """Return the process's files that a lock should guard.

        ``local``: include files on this host's own file systems that are certainly images: named as such by the
        arguments, or locked by QEMU itself.
        """
        self._refresh(process.pid)
        named = named_files(process.arguments) if local else set()
        shares, unannounced = self._pinner.tables.shares(), self._pinner.unannounced
        may_be = [
            user
            for user in once(process.files)
            if user.key[0] not in self._pinner.tables.smb()
            and (user.path in named or ((local or user.key[0] in shares) and unannounced.is_image(process.kind, user)))
        ]
        own = [self._pinner.discovered([user]) for user in may_be if user.path in named or user.key[0] in shares]
        near = [user for user in may_be if user.path not in named and user.key[0] not in shares]
        return own + [self._pinner.discovered([user]) for user in near if unannounced.is_within(user, own)]

    def _join(self, process: UnclaimedProcess) -> bool:
        """Follow a process with the VM that it belongs to, or says it helps (claim/kinship.py). False if there is none.

        A helper that only says so names the VM in its arguments, or has a file of the VM open.
        """
        vm = self._families.vm_of(process.standing, process.ancestors)
        if vm is not None and self._guards(vm):
            self._follow(vm, process, vouched=True)
            return True
        if not may_serve(process.kind, process.standing, self._qemu_users()):
            return False
        keys = {user.key for user in process.files}
        for vm in self._registry:
            if vm.state not in LIVING:
                continue
            named = hypervisors.by_name(vm.hypervisor).names_vm(process.served, vm.name, vm.uuid)
            if named or any(file.key in keys for file in vm.files):
                self._follow(vm, process, named and is_named_helper(vm, self._run_dirs, process.line))
                return True
        return False

    def _guards(self, vm: GuardedVm) -> bool:
        return vm.state in LIVING and self._registry.get(vm.id) is vm

    def _follow(self, vm: GuardedVm, process: UnclaimedProcess, vouched: bool) -> None:
        if self._lifecycle.follow(vm, process.pid, process.kind, process.line.started, vouched):
            log.info("%s: its helper %s is followed, too", vm.title, vm.processes[-1].title)
            self._registry.save(vm)
            self._pinner.attend(vm)


def _is_strangers(process: UnclaimedProcess, manager: Hypervisor) -> bool:
    return not manager.has_hook and not process.standing.is_root


def _name_of(process: UnclaimedProcess, manager: Hypervisor) -> str:
    """Return the name of a process's VM. An ordinary user could call his like any other one."""
    name = process.title or f"{proc.name(process.pid)}-{process.pid}"
    return f"{name} ({process.standing.owner}, pid {process.pid})" if _is_strangers(process, manager) else name
