"""A claim that finds its NFS client's state set up anew behind its locks: it asks for each, or is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmguard.adapters.linux import mountstats
from vmguard.adapters.storage import owner_record
from vmguard.core.locks.owner_record import TEXT_FIELDS
from vmguard.core.locks.plan import DISK, EXCLUSIVE, PlannedFile
from vmguard.errors import LockUnavailable
from vmguard.hook.claim_on_share import ClaimedFile
from vmguard.hook.claim_proof import prove

FOLDER = ".vmguard"
_MOUNT = """\
device nas:/vm mounted on {point} with fstype nfs4 statvers=1.1
\tper-op statistics
\t        LOCK: 12 12 0 44 24 0 0 0 0
\t EXCHANGE_ID: {exchange} 2 0 1 1 0 1 1 0
\tCREATE_SESSION: {session} 1 0 1 1 0 1 1 0
\tRECLAIM_COMPLETE: {complete} 1 0 1 1 0 1 1 0
\tTEST_STATEID: {test} 0 0 0 0 0 0 0 0
"""


def text(point: str = "/srv/vm", exchange: int = 2, session: int = 1, complete: int = 1, test: int = 0) -> str:
    return _MOUNT.format(point=point, exchange=exchange, session=session, complete=complete, test=test)


@pytest.mark.parametrize("what", ["EXCHANGE_ID", "CREATE_SESSION", "RECLAIM_COMPLETE", "TEST_STATEID"])
def test_whatever_can_cost_a_lock_is_counted(tmp_path: Path, what: str) -> None:
    stats = tmp_path / "mountstats"
    stats.write_text("device proc mounted on /proc with fstype proc\n" + text())
    before = mountstats.sessions({"/srv/vm"}, str(stats))
    assert mountstats.sessions(before, str(stats)) == before
    stats.write_text("device proc mounted on /proc with fstype proc\n" + text().replace(f"{what}: ", f"{what}: 7"))
    assert mountstats.sessions(before, str(stats)) != before


def test_of_two_mounts_on_one_point_both_count_and_no_other_one(tmp_path: Path) -> None:
    stats = tmp_path / "mountstats"
    stats.write_text(text() + text() + text("/srv/iso"))
    before = mountstats.sessions({"/srv/vm"}, str(stats))
    stats.write_text(text() + text() + text("/srv/iso", session=9))
    assert mountstats.sessions(before, str(stats)) == before
    stats.write_text(text(session=2) + text() + text("/srv/iso"))
    assert mountstats.sessions(before, str(stats)) != before


def test_a_claim_without_a_file_on_nfs_reads_nothing() -> None:
    assert mountstats.sessions(set(), "/nowhere") == {}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ClaimedFile]:
    path = tmp_path / "web.raw"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDWR)
    file = ClaimedFile(PlannedFile(str(path), EXCLUSIVE, DISK, ""), fd, (0, os.fstat(fd).st_ino), [])
    file.point = "/srv/vm"
    yield file
    os.close(fd)


class Client:
    """Counts that rise with some of the questions, and answers to them."""

    def __init__(self, answers: list[str], rises: int = 0) -> None:
        self._answers = answers
        self._rises = rises
        self._count = 1
        self.asked = 0

    def ask(self, file: ClaimedFile) -> str:
        self.asked += 1
        self._count += self.asked <= self._rises
        return self._answers[min(self.asked, len(self._answers)) - 1]

    def sessions(self, points: set[str]) -> dict[str, list[bytes]]:
        return {point: [b"%d" % self._count] for point in points}


def test_a_lock_that_stands_is_asked_for_once(disk: ClaimedFile) -> None:
    client = Client([""])
    assert prove([disk], FOLDER, {}, client.ask, client.sessions) == {"/srv/vm": [b"1"]}
    assert client.asked == 1


def test_a_lock_is_asked_for_again_while_things_happen(disk: ClaimedFile) -> None:
    client = Client([""], rises=2)
    assert prove([disk], FOLDER, {}, client.ask, client.sessions) == {"/srv/vm": [b"3"]}
    assert client.asked == 3
    client = Client([""], rises=99)
    with pytest.raises(LockUnavailable, match="again and again"):
        prove([disk], FOLDER, {}, client.ask, client.sessions)


def test_a_lock_that_is_lost_refuses_the_start(disk: ClaimedFile) -> None:
    client = Client(["", "EIO"], rises=1)
    with pytest.raises(LockUnavailable, match="not proven any more: EIO") as caught:
        prove([disk], FOLDER, {}, client.ask, client.sessions)
    assert caught.value.path == disk.plan.path
    assert "start it again" in caught.value.hint


def test_a_file_of_this_host_s_own_is_not_asked_for(disk: ClaimedFile) -> None:
    local = ClaimedFile(disk.plan, disk.fd, disk.key, [])
    client = Client([""])
    prove([local, disk], FOLDER, {}, client.ask, client.sessions)
    assert client.asked == 1


def test_a_claim_behind_ours_refuses_the_start(disk: ClaimedFile) -> None:
    inode = disk.key[1]
    fields = dict.fromkeys(TEXT_FIELDS, "x")
    ours = owner_record.write_claim(disk.real, FOLDER, inode, fields)
    client = Client([""])
    prove([disk], FOLDER, {str(inode): ours}, client.ask, client.sessions)
    owner_record.write_claim(disk.real, FOLDER, inode, fields)
    with pytest.raises(LockUnavailable, match="claimed since: epoch 2, ours is 1"):
        prove([disk], FOLDER, {str(inode): ours}, client.ask, client.sessions)
