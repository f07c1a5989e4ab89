"""Tell whether a guest runs by the processor time of QEMU's vCPU threads in /proc. QEMU itself is not asked.

QEMU names its threads if it is told to (``-name debug-threads=on``), as libvirt and Proxmox do: ``CPU 0/KVM``,
``CPU 0/TCG``, or ``ALL CPUs/TCG``. The vCPUs of a QEMU that waits for a VM's memory sleep.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_NAMES = (b"CPU ", b"ALL CPUs")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Vcpus:
    """The vCPU threads that a QEMU has by now.

    Their files stay open: a look is one call for each thread, and never meets a thread of another process that has got
    the number.
    """

    __slots__ = ("_files", "_read")

    def __init__(self, pid: int) -> None:
        found = threads(pid)
        self._read: Callable[[bytes], float] = _nanoseconds
        self._files = _open(pid, found, "schedstat")
        if not self._files:  # a kernel without CONFIG_SCHED_INFO
            self._files, self._read = _open(pid, found, "stat"), _ticks

    def __len__(self) -> int:
        return len(self._files)

    def busy(self) -> float:
        """Return the seconds of processor time that these threads have used; a thread that has ended counts as 0."""
        total = 0.0
        for fd in self._files:
            try:
                total += self._read(os.pread(fd, 4096, 0))
            except (OSError, IndexError, ValueError):
                continue
        return total

    def close(self) -> None:
        for fd in self._files:
            os.close(fd)
        self._files = []


def threads(pid: int) -> list[int]:
    """Return the ids of a QEMU's vCPU threads; none if it is gone, or its threads have no names."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{name}/comm", "rb", buffering=0) as stream:
                if stream.read(64).startswith(_NAMES):
                    found.append(int(name))
    except OSError:
        pass
    return found


def _open(pid: int, ids: list[int], name: str) -> list[int]:
    files = []
    for thread in ids:
        try:
            files.append(os.open(f"/proc/{pid}/task/{thread}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            continue
    return files


def _nanoseconds(schedstat: bytes) -> float:
    return int(schedstat.split()[0]) / 1e9


def _ticks(stat: bytes) -> float:
    words = stat.rpartition(b") ")[2].split()
    return (int(words[11]) + int(words[12])) * _TICK_S
