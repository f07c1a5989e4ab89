"""How many file descriptors this process has open, and how many it may have."""

from __future__ import annotations

import os
import resource


def used() -> int:
    """Return how many descriptors are open. Linux 6.2 and later tell the number; before, it takes a look at each."""
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:  # to list them takes one more
        return limit()


def limit() -> int:
    """Return how many may be open (RLIMIT_NOFILE)."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
