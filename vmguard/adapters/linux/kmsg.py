"""Follow the kernel's log (/dev/kmsg): what the NFS client says of lost locks is a reason to probe at once.

A hint, never a verdict: "lost N locks" also counts requests that were merely pending (nfs4_reclaim_locks), names no
file, and comes again at each recovery.
"""

from __future__ import annotations

import os
import re

#: what the NFS client says when locks or opens may have been lost, 5.10 to 6.12. Not what the kernel says of a process
#: (``NAME[PID]: segfault at ... in PROGRAM[...]``): both names are its user's, who could have all locks asked for,
#: without end.
_TELLING = re.compile(
    r"(?!.{1,16}\[\d+\]: )NFS(v4)?: "
    r".*(lost \d+ locks|[Ll]ock reclaim failed|state recovery failed|reclaim_locks|lease expired)"
)


def is_telling(line: str) -> bool:
    """Return whether a line of the kernel's log is a reason to probe every lock."""
    return _TELLING.match(line) is not None


class KernelLog:
    """The lines that come after it was opened. Raises OSError if they may not be read (CAP_SYSLOG)."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self.fd, 0, os.SEEK_END)

    def telling(self) -> list[str]:
        """Return the lines since the last call that are a reason to probe every lock."""
        found: list[str] = []
        while True:
            try:
                record = os.read(self.fd, 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # the log ran over us: go on with what is there
            except OSError:
                return found
            text = record.decode(errors="replace").partition(";")[2].partition("\n")[0]
            if is_telling(text):
                found.append(text)

    def close(self) -> None:
        os.close(self.fd)
