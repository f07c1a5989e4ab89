"""The state of one VM's scans and pins."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from vmguard.adapters.linux.proc import Key
from vmguard.daemon.registry.guarded_vm import GuardedProcess
from vmguard.daemon.scan.process_fds import ProcessFds
from vmguard.daemon.scan.settling_files import SettlingFiles


@dataclass
class VmScanState:
    """The files being moved, the last scan of each process, and when the next full scan is due."""

    moving: set[Key] = field(default_factory=set)
    fds_by_pid: dict[int, ProcessFds] = field(default_factory=dict)
    settling: SettlingFiles = field(default_factory=SettlingFiles)
    #: QEMU has image locks of its own, see pin/fd_copies.py
    image_locks: bool = False
    #: when a full scan is due whatever the cheap ones show, in the loop's time
    due: float = 0.0

    def nothing_new(self, processes: int, now: float) -> bool:
        """Scan cheaply: return whether the VM has as many processes as before, each with the same descriptors."""
        known = now < self.due and len(self.fds_by_pid) == processes
        return known and not any(fds.changed() for fds in self.fds_by_pid.values())

    def shows_all(self, processes: int) -> bool:
        """Return whether all descriptors of all these processes can be seen."""
        return len(self.fds_by_pid) == processes and all(fds.shows() for fds in self.fds_by_pid.values())

    def follow(
        self, processes: Collection[GuardedProcess], open_fds: Callable[[int], ProcessFds]
    ) -> list[tuple[GuardedProcess, ProcessFds]]:
        """Return each living process with its descriptors, opened by ``open_fds`` when new; close those of others."""
        for pid in self.fds_by_pid.keys() - {process.pid for process in processes}:
            self.fds_by_pid.pop(pid).close()
        for process in processes:
            if process.pid not in self.fds_by_pid:
                try:
                    self.fds_by_pid[process.pid] = open_fds(process.pid)
                except OSError:
                    continue
        return [(process, self.fds_by_pid[process.pid]) for process in processes if process.pid in self.fds_by_pid]
