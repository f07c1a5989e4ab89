"""What this process has open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator


def keep_descriptors() -> Iterator[None]:
    """Let a test run that must leave no descriptor open; for a fixture: ``yield from``."""
    gc.collect()  # an object of an earlier test that is collected meanwhile would close its descriptor
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before
