"""The reads of /proc that may never come back. Only for a thread or a child that nobody waits for.

To read another process's memory the kernel takes that process's mmap lock. ``cmdline`` and ``environ`` lie in its
memory (``__access_remote_vm``); ``maps``, ``smaps`` and ``numa_maps`` walk through it. Whatever holds the lock holds up
every reader: a page fault or an mmap of a file on a share holds it for as long as the storage does not answer, and so
does any user's FUSE file system that does not.

Measured: a daemon stood in state D before it was ready, its only thread in ``__access_remote_vm`` below
``proc_pid_cmdline_read``, because another user's process was stuck in an mmap of a FUSE file. ``ps aux`` beside it hung
for ten minutes. ``exe``, ``comm``, ``status`` and the links of the descriptors of the same process answered at once:
such reads are in proc.py. The same is reported of another NFS watchdog with a hard NFS 4.1 mount as the cause
(aws/efs-utils #374, kernel 6.12).

A reader that waits for the lock does not see signals, but for SIGKILL.
"""

from __future__ import annotations

import functools

from vmguard.adapters.linux import proc
from vmguard.adapters.linux.proc import CommandLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: bytes and words of arguments that are read: a VM of 500 disks has half of that, a process may have 6 MiB
_MOST_BYTES, _MOST_WORDS = 1 << 20, 16384
#: the same for a process that anybody may have started, and as many of these as he likes
STRANGERS_BYTES, _STRANGERS_WORDS = 1 << 16, 1024
#: children that read side by side, and their time
_AT_ONCE = 64
_PATIENCE_S = 1.0


def cmdline(pid: int, is_trusted: bool = True) -> list[str]:
    """Return the arguments of a process; none if it is gone, a kernel thread, or past its own exit.

    Of very many only the first ones, which in a QEMU's are those that say which VM it runs.
    """
    bytes_most, words_most = (_MOST_BYTES, _MOST_WORDS) if is_trusted else (STRANGERS_BYTES, _STRANGERS_WORDS)
    try:
        data = proc.read_small(f"/proc/{pid}/cmdline", bytes_most)[:bytes_most]
    except OSError:
        return []
    return [word.decode(errors="surrogateescape") for word in data.split(b"\0", words_most)[:-1]]


def command_line(pid: int, is_trusted: bool = True) -> CommandLine | None:
    """Return which process has this pid, and what it runs; None if it is gone, or the pid another's by now."""
    started = proc.started(pid)
    found = CommandLine(pid, started, proc.program(pid), cmdline(pid, is_trusted))
    return found if started and proc.started(pid) == started else None


def cmdline_within(seconds: float, pid: int, read: Callable[[int], list[str]] = cmdline) -> list[str]:
    """Return the arguments of a process, read in a child that is killed after so many seconds; none then.

    For the command line, whose process has one thread (see bounded_child).
    """
    from vmguard.adapters.linux import bounded_child
    from vmguard.errors import VmguardError

    try:
        words = bounded_child.run(lambda: read(pid), seconds, f"reading the arguments of pid {pid}")
    except VmguardError:
        return []
    return [str(word) for word in words]


def cmdlines_within(
    seconds: float, pids: Sequence[int], read: Callable[[int], list[str]] = cmdline
) -> dict[int, list[str]]:
    """Return the arguments of several processes; none of those that were not read in ``seconds``, all together.

    They are read side by side, so that it takes no longer with a hundred that hang, as any user may start them.
    """
    from vmguard.adapters.linux import clock
    from vmguard.adapters.linux.bounded_child import Child
    from vmguard.errors import VmguardError

    found: dict[int, list[str]] = {pid: [] for pid in pids}
    end = clock.boottime() + seconds
    for first in range(0, len(pids), _AT_ONCE):
        patience = min(_PATIENCE_S, end - clock.boottime())
        if patience <= 0:
            break
        some = pids[first : first + _AT_ONCE]
        children = [(pid, Child(functools.partial(read, pid), patience, f"pid {pid}")) for pid in some]
        for pid, child in children:
            try:
                found[pid] = [str(word) for word in child.result()]
            except VmguardError:
                continue
    return found
