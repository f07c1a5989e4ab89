"""What the loss of a lock may cost its VM: the limit of what may be done about it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from vmguard.core.locks.guard_states import Origin
from vmguard.core.locks.plan import BACKING, DISK, EXCLUSIVE, SHARED
from vmguard.core.locks.ranges import WHOLE
from vmguard.core.watchdog.policy import Stake
from vmguard.daemon.registry.guarded_file import Access, GuardedFile

CLAIMED = None


@pytest.mark.parametrize(
    ("mode", "role", "access", "origin", "stake"),
    [
        (EXCLUSIVE, DISK, Access.READ_WRITE, CLAIMED, Stake.VITAL),
        (EXCLUSIVE, DISK, Access.READ, CLAIMED, Stake.VITAL),
        (EXCLUSIVE, DISK, Access.WRITE_ONLY, CLAIMED, Stake.VITAL),
        (EXCLUSIVE, DISK, Access.WRITE_ONLY, Origin.FOUND, Stake.SPARE),
        (SHARED, BACKING, Access.READ, CLAIMED, Stake.BACKING),
        (SHARED, BACKING, Access.READ_WRITE, CLAIMED, Stake.VITAL),
        (SHARED, BACKING, Access.UNKNOWN, CLAIMED, Stake.VITAL),
        (SHARED, DISK, Access.READ, CLAIMED, Stake.SPARE),
        (SHARED, DISK, Access.READ_WRITE, CLAIMED, Stake.VITAL),
        (SHARED, DISK, Access.UNKNOWN, CLAIMED, Stake.VITAL),
    ],
)
def test_what_is_not_known_to_be_only_read_counts_as_vital(
    mode: str, role: str, access: Access, origin: Origin | None, stake: Stake
) -> None:
    file = GuardedFile("/srv/vm/cd.iso", mode, role, "", (1, 2), [WHOLE], access=access, origin=origin)
    assert file.stake is stake


@pytest.mark.parametrize(
    ("flags", "access"),
    [
        ([], Access.UNKNOWN),
        ([os.O_RDONLY | os.O_DIRECT], Access.READ),
        ([os.O_WRONLY], Access.WRITE_ONLY),
        ([os.O_RDWR], Access.READ_WRITE),
        ([os.O_RDONLY, os.O_WRONLY], Access.READ_WRITE),
        ([os.O_RDONLY, os.O_RDWR], Access.READ_WRITE),
    ],
)
def test_access_is_that_of_all_descriptors_together(flags: Sequence[int], access: Access) -> None:
    assert Access.of(flags) is access
