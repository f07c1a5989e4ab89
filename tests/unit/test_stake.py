"""What the loss of a lock may cost its VM: the limit of what may be done about it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from vmguard.adapters.linux.proc import FdInfo, OpenFile
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
    ("name", "flags", "stake"),
    [
        ("debian.iso", os.O_RDONLY, Stake.SPARE),
        ("DEBIAN.ISO (deleted)", os.O_RDONLY, Stake.SPARE),
        ("vm-100-cloudinit.qcow2", os.O_RDONLY, Stake.SPARE),
        ("vm-100-cloudinit", os.O_RDONLY, Stake.SPARE),
        ("debian.iso", os.O_RDWR, Stake.VITAL),
        ("vm-100-state-suspend-2026-11-20.raw", os.O_RDWR, Stake.SPARE),
        ("vm-100-state-before.raw", os.O_RDONLY, Stake.SPARE),
        ("vm-100-state-before.qcow2", os.O_RDWR, Stake.VITAL),
        ("vm-x-state-before.raw", os.O_RDWR, Stake.VITAL),
        ("vm-100-disk-0.raw", os.O_RDWR, Stake.VITAL),
        ("vm-100-cloudinit.qcow2", os.O_RDWR, Stake.VITAL),
        ("base-100-disk-0.qcow2", os.O_RDONLY, Stake.BACKING),
        ("vm-100-disk-0.qcow2", os.O_RDONLY, Stake.BACKING),
        ("x.iso.qcow2", os.O_RDONLY, Stake.BACKING),
        ("iso", os.O_RDONLY, Stake.BACKING),
    ],
)
def test_a_medium_that_nobody_announced_costs_no_vm_its_life(name: str, flags: int, stake: Stake) -> None:
    """A CD that was inserted later, and every one of Proxmox's: their server may die. An image below a disk may not.

    Nor is memory that is being saved a disk, however QEMU opens it.
    """
    user = OpenFile(7, 9, f"/mnt/pve/iso/template/iso/{name}", (1, 2), FdInfo(flags, 3, 2, []))
    file = GuardedFile.found([user], [WHOLE])
    file.note_access([flags])
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
