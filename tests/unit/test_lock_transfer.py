"""Who is in the way of a lock: another host, or this VM's own descriptor that is just being closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmguard.adapters.linux import ofd, proc
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.daemon.pin.lock_transfer import Order, conflicts_of, judge_conflicts


@pytest.mark.parametrize("closes", [True, False])
def test_a_descriptor_that_is_closed_while_its_owner_is_looked_for_is_no_rival(tmp_path: Path, closes: bool) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4096))
    new, old = (os.open(path, os.O_RDWR) for _ in range(2))
    ofd.lock(old, str(path), ofd.READ, (300, 0))

    order = Order(str(path), proc.own_key(new), 0, -1, new, EXCLUSIVE, ((300, 0),), None, None)
    found = conflicts_of(order, new)
    if closes:
        os.close(old)
    rival = judge_conflicts(order, new, found, [])
    assert (rival is None) is closes
    if rival is not None:
        assert rival.sentence == "locked for reading by another host"
        os.close(old)
    os.close(new)
