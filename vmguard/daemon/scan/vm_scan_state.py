"""What the pinner has under way for one VM."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmguard.adapters.linux.proc import Key
from vmguard.daemon.scan.process_fds import ProcessFds
from vmguard.daemon.scan.settling_files import SettlingFiles


@dataclass
class VmScanState:
    """Files on the move, what was last seen of each process, and when the next full look is due."""

    moving: set[Key] = field(default_factory=set)
    fds_by_pid: dict[int, ProcessFds] = field(default_factory=dict)
    settling: SettlingFiles = field(default_factory=SettlingFiles)
    image_locks: bool = False  # of QEMU's own, see pin/fd_copies.py
    #: CLOCK_BOOTTIME seconds at which a full look is due, whatever the cheap ones say
    due: float = 0.0

    def nothing_new(self, processes: int, now: float) -> bool:
        """The cheap look: the VM still has so many processes, and each of them the same descriptors."""
        known = now < self.due and len(self.fds_by_pid) == processes
        return known and not any(fds.changed() for fds in self.fds_by_pid.values())
