"""Who is in the way of a lock: another host, or this VM's own descriptor that is just being closed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vmguard.adapters.linux import ofd, proc
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.locks.ranges import TRIAL
from vmguard.daemon.pin.lock_transfer import Order, conflicts_of, judge_conflicts, let_go, send_if_it_stayed
from vmguard.errors import LockConflict


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


def test_a_close_that_reports_somebodys_lost_writes_is_a_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS flushes at each close: after a lost lock every close of QEMU's description says EIO, and closes it."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4096))
    really_close = os.close

    def lost(fd: int) -> None:
        really_close(fd)
        raise OSError(errno.EIO, "Input/output error")

    held = [os.open(path, os.O_RDWR) for _ in range(3)]
    monkeypatch.setattr(os, "close", lost)
    let_go(held)
    for fd in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    with pytest.raises(OSError, match="Input/output error"):
        os.close(os.open(path, os.O_RDWR))
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ofd.close(held[0])


@pytest.mark.parametrize("flags", [0, os.O_DIRECT])
def test_to_see_where_a_lock_goes_leaves_all_locks_as_they_were(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDWR | flags)
    ofd.lock(fd, str(path), ofd.WRITE, (300, 0))
    before = proc.lock_ranges(proc.fdinfo("self", fd))
    process, key = os.pidfd_open(os.getpid()), proc.own_key(fd)
    of_it = (os.getpid(), process, fd, str(path))
    assert send_if_it_stayed(*of_it, key, ((300, 0),)) is False, "there is no server that could delegate"
    assert proc.lock_ranges(proc.fdinfo("self", fd)) == before
    other = os.open(path, os.O_RDWR)
    ofd.lock(other, str(path), ofd.WRITE, TRIAL)
    assert send_if_it_stayed(*of_it, (key[0], key[1] + 1), ((300, 0),)) is False, "the number is another file's by now"
    if not flags:
        with pytest.raises(LockConflict):
            send_if_it_stayed(*of_it, key, ((300, 0),))
    for opened in (fd, other, process):
        os.close(opened)
