"""The state of one VM's scans and pins."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmguard.adapters.linux.proc import Key
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
