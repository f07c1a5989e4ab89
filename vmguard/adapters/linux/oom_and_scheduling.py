"""Keep this process able to act when the host runs out of memory or time: mlockall(2), OOM score, SCHED_RR.

Also raise RLIMIT_NOFILE: the usual limit of 1024 open files is enough for three hundred VMs.

Children inherit neither the locked memory nor, with SCHED_RESET_ON_FORK, the scheduling. They do inherit the OOM score:
``ordinary`` makes a child killable again that runs another program.
"""

from __future__ import annotations

import errno
import os
import resource
import threading

from vmguard.adapters.linux.libc import check, libc

_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4
#: threads that may hang need no more; the default of 8 MiB each would be locked, too
_STACK_BYTES = 512 * 1024
#: OOM scores (proc(5), oom_score_adj). Not -1000: at the limit of its own control group (MemoryMax=) a process that may
#: not be killed gets no memory either, and repeats the same page fault for ever (measured on Linux 6.1, 57,000 times in
#: 40 s). With -999 it is killed there and started again; where the host is short of memory, all others come first.
_LAST = -999
_NORMAL = 0
#: open files: two disks and a template for each of a thousand VMs, with room to spare (vmguard.service says the same)
_FILES = 65536


def lock() -> None:
    """Keep every page of this process in memory. Raises OSError.

    MCL_ONFAULT (Linux 4.4): without it each thread's whole stack would be made resident.
    """
    threading.stack_size(_STACK_BYTES)
    check(int(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)), "mlockall")


def open_files() -> None:
    """Raise the limit of open files as far as this process may. Raises OSError if that is too few."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        more = max(most, _FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, more))
    except (OSError, ValueError):  # the hard limit may not be raised: take what it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if most < _FILES:
            raise OSError(errno.EPERM, f"no more than {most} files can be open: enough for {most // 3} VMs") from None


def spare() -> None:
    """Have the OOM killer take every other process first. Raises OSError."""
    _oom_score("self", _LAST)


def ordinary(pid: int) -> None:
    """Make a child killable by the OOM killer again. Quiet if the child is gone already."""
    try:
        _oom_score(pid, _NORMAL)
    except OSError:
        pass


def realtime() -> None:
    """Run before every ordinary process (SCHED_RR, lowest priority). Raises OSError."""
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _oom_score(pid: int | str, score: int) -> None:
    with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write(str(score))
