"""Signal processes and copy their descriptors by pidfd, never by a bare pid.

``pidfd_getfd`` (Linux 5.6) needs the right to ptrace the process (PTRACE_MODE_ATTACH_REALCREDS): CAP_SYS_PTRACE, and
kernel.yama.ptrace_scope below 3.
"""

from __future__ import annotations

import errno
import signal

from vmguard.adapters.linux.libc import check, libc

_SYS_PIDFD_GETFD = 438


def copy_descriptor(pidfd: int, fd: int) -> int:
    """Copy another process's descriptor: the same open file description, close-on-exec.

    Raises OSError: EPERM where the kernel forbids it, EBADF when it is closed by now, ESRCH when the process is gone.
    """
    return check(int(libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)), "pidfd_getfd")


def send(pidfd: int, number: signal.Signals) -> bool:
    """Send a signal; return False if the process is gone already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def why_forbidden(problem: OSError) -> str:
    """Return why a descriptor could not be copied, in words for the admin."""
    if problem.errno == errno.ENOSYS:
        return "this kernel has no pidfd_getfd (needs Linux 5.6)"
    if problem.errno == errno.EPERM:
        try:
            with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as stream:
                scope = stream.read().strip()
        except OSError:
            scope = ""
        if scope == "3":
            return "kernel.yama.ptrace_scope is 3: no process may look into another"
        return "the daemon may not look into QEMU (needs CAP_SYS_PTRACE)"
    return str(problem.strerror)
