"""What the pinner has under way for one VM."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmguard.adapters.linux import clock
from vmguard.adapters.linux.proc import Key
from vmguard.daemon.scan.process_fds import Sight
from vmguard.daemon.scan.settling_files import Newcomers


@dataclass
class Attention:
    """Files on the move, what was last seen of each process, and when the next full look is due."""

    moving: set[Key] = field(default_factory=set)
    sights: dict[int, Sight] = field(default_factory=dict)
    newcomers: Newcomers = field(default_factory=Newcomers)
    image_locks: bool = False  # of QEMU's own, see shield.py
    #: CLOCK_BOOTTIME seconds at which a full look is due, whatever the cheap ones say
    due: float = 0.0

    def nothing_new(self, processes: int) -> bool:
        """The cheap look: the VM still has so many processes, and each of them the same descriptors."""
        known = clock.boottime() < self.due and len(self.sights) == processes
        return known and not any(sight.changed() for sight in self.sights.values())
