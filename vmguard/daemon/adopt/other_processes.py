"""The processes that do not look like a QEMU: when each is looked at again, and what shows that it runs a VM after all.

A program may be called anything. Two things tell a VM's process nevertheless, without its arguments and without its
name: a hypervisor's own pid file names it, or it has a VM of KVM's open (``anon_inode:kvm-vm``), which nobody can have
who runs none. Both may come after the process itself, and exec may change it. So a process is looked at several times
in its first seconds, and its program now and then for as long as it lives.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import pid_file
from vmguard.adapters.linux.proc import FdFolder

#: longest pause, in counts, before the program of a process that is no QEMU is read again
MAX_PAUSE_ROUNDS = 8
#: what /proc shows in place of a path for a VM of KVM's (virt/kvm/kvm_main.c)
KVM_VM = "anon_inode:kvm-vm"
#: descriptors that are looked at for it, and their characters: a QEMU opens it long before its disks
_MOST_LINKS, _MOST_CHARACTERS = 128, 1 << 14
#: CPU time of a round for looks at descriptors; who has to wait is looked at in the next one
_ROUND_S = 0.01
#: age of a folder's latest change up to which its files are read again
_FRESH_NS = 3_000_000_000


class _Plan(NamedTuple):
    birth: int
    #: the round in which it is looked at again, and the pause after that
    due: int
    pause: int
    #: hash of its program's path
    program: int


class OtherProcesses:
    """When each process is looked at again."""

    def __init__(self) -> None:
        self._plans: dict[int, _Plan] = {}
        #: CPU time for looks in this round, and the processes for which none was left
        self._left = _ROUND_S
        self._waiting: set[int] = set()
        self._named = _NamedByPidFiles()

    def begin_round(self, run_dirs: RunDirs) -> None:
        """Read the hypervisors' pid files again where a folder of theirs has changed."""
        self._named.refresh(run_dirs)
        self._left = _ROUND_S

    def rests(self, pid: int, birth: int, now_round: int) -> bool:
        """Return whether a process is not to be looked at in this round."""
        plan = self._plans.get(pid)
        return plan is not None and plan.birth == birth and now_round < plan.due and pid not in self._named.fresh

    def note(self, pid: int, birth: int, now_round: int, program: str = "") -> None:
        """Note that a process, which runs this program, is no VM's, as far as can be seen now."""
        plan = self._plans.get(pid)
        known = plan is not None and (plan.birth, plan.program) == (birth, hash(program))
        pause = min(2 * plan.pause, MAX_PAUSE_ROUNDS) if plan is not None and known else 1
        if pid in self._waiting:
            pause = 1
            self._waiting.discard(pid)
        self._plans[pid] = _Plan(birth, now_round + pause, pause, hash(program))

    def may_run_a_vm(self, pid: int, birth: int, program: str) -> bool:
        """Return whether a process runs a VM, whatever its program is called; what a pid file names may be another."""
        if pid in self._named.pids:
            return True
        plan = self._plans.get(pid)
        is_old = plan is not None and plan.birth == birth and plan.pause == MAX_PAUSE_ROUNDS
        if not program or (is_old and plan is not None and plan.program == hash(program)):
            return False  # a thread of the kernel's, or looked at often enough
        if self._left <= 0.0:
            self._waiting.add(pid)
            return False
        before = time.thread_time()
        found = has_kvm_vm(pid)
        self._left -= time.thread_time() - before
        return found

    def forget(self, pid: int) -> None:
        self._plans.pop(pid, None)

    def only(self, alive: set[int]) -> None:
        """Forget all that have ended."""
        for pid in self._plans.keys() - alive:
            del self._plans[pid]
        self._waiting &= alive


class _NamedByPidFiles:
    """The processes in all pid files that are believed, read when their folder has changed."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[int, set[int]]] = {}
        self.pids: set[int] = set()
        #: those that were named since the last round
        self.fresh: set[int] = set()

    def refresh(self, run_dirs: RunDirs) -> None:
        before = self.pids
        for folder in (run_dirs.libvirt, run_dirs.proxmox):
            changed = _changed(folder)
            known, _ = self._folders.get(folder, (-1, set()))
            # A file is there before its number is in it.
            if changed != known or time.time_ns() - changed < _FRESH_NS:
                self._folders[folder] = (changed, _pids_in(folder))
        self.pids = set().union(*(pids for _, pids in self._folders.values()))
        self.fresh = self.pids - before


def has_kvm_vm(pid: int) -> bool:
    """Return whether a process has a VM of KVM's open; False if it may not be looked at."""
    try:
        folder = FdFolder(pid)
    except OSError:
        return False
    try:
        return any(link == KVM_VM for _, link in folder.links(_MOST_LINKS, _MOST_CHARACTERS))
    except OSError:
        return False
    finally:
        folder.close()


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _pids_in(folder: str) -> set[int]:
    """Return the processes that the pid files of a folder were written for; not all of them run a VM."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".pid")]
    except OSError:
        return set()
    written = (pid_file.read(os.path.join(folder, name)) for name in names)
    named = (pid_file.named_by(found) for found in written if found is not None)
    return {process.pid for process in named if process is not None}
