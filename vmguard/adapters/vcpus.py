"""Whether a guest runs, told by the processor time of QEMU's vCPU threads in /proc. QEMU itself is not asked.

QEMU names its threads where it is told to (``-name debug-threads=on``), as libvirt and Proxmox do: ``CPU 0/KVM``,
``CPU 0/TCG``, or ``ALL CPUs/TCG``. Those of a QEMU that waits for a VM's memory sleep.
"""

from __future__ import annotations

import os

_NAMES = (b"CPU ", b"ALL CPUs")
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> list[int]:
    """The ids of a QEMU's vCPU threads; none when it is gone, or its threads have no names."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/task"):
            if _read(f"/proc/{pid}/task/{name}/comm").startswith(_NAMES):
                found.append(int(name))
    except OSError:
        pass
    return found


def busy(pid: int, ids: list[int]) -> float:
    """Seconds of processor time that these threads have used."""
    return sum(_time(f"/proc/{pid}/task/{thread}") for thread in ids)


def _time(folder: str) -> float:
    try:
        return int(_read(f"{folder}/schedstat").split()[0]) / 1e9
    except (OSError, IndexError, ValueError):
        pass  # a kernel without CONFIG_SCHED_INFO
    try:
        words = _read(f"{folder}/stat").rpartition(b") ")[2].split()
        return (int(words[11]) + int(words[12])) * _TICK
    except (OSError, IndexError, ValueError):
        return 0.0


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
