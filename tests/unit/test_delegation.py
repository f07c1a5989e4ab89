"""A lock that stays in the NFS client: how it is seen, and the second name by which a delegation is given back.

What the NFS client does then is in tests/scenarios/test_delegations.py.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from vmguard.adapters.linux import mountstats, ofd
from vmguard.adapters.storage import delegation
from vmguard.core.locks.plan import EXCLUSIVE, SHARED, PlannedFile
from vmguard.core.locks.ranges import WHOLE, held_ranges
from vmguard.errors import LockConflict, LockUnavailable
from vmguard.hook import claim_delegated
from vmguard.hook.claim_on_share import ClaimedFile, stay_here

MOUNTSTATS = """\
device proc mounted on /proc with fstype proc
device nas:/vm mounted on /srv/my\\040vms with fstype nfs4 statvers=1.1
\tage:\t7
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        LOCK: 12 12 0 44 24 0 0 0 0
\t       LOCKT: 3 3 0 44 24 0 0 0 0
\t       LOCKU: 4 4 0 44 24 0 0 0 0

device nas:/old mounted on /srv/old with fstype nfs statvers=1.1
\tage:\t7
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0

"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 4096)
    return path


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def claimed(path: Path, mode: str = EXCLUSIVE, point: str = "/srv/vm") -> ClaimedFile:
    fd = opened(path)
    file = ClaimedFile(PlannedFile(str(path), mode, "disk", "disk vda"), fd, (0, os.fstat(fd).st_ino), [])
    file.point = point
    return file


def test_a_lock_that_fdinfo_calls_posix_stays_in_the_client(disk: Path) -> None:
    fd = opened(disk)
    ofd.lock(fd, str(disk), ofd.WRITE, WHOLE)
    assert not ofd.stays_here(fd)
    ofd.unlock(fd, WHOLE)
    fcntl.lockf(fd, fcntl.LOCK_EX)  # as the NFS client enters an OFD lock under a delegation
    assert ofd.stays_here(fd)
    os.close(fd)


def test_lock_requests_are_counted_by_mount_point(tmp_path: Path) -> None:
    (tmp_path / "mountstats").write_text(MOUNTSTATS)
    assert mountstats.lock_requests(str(tmp_path / "mountstats")) == {"/srv/my vms": 12}
    (tmp_path / "mountstats").write_text(MOUNTSTATS * 2)  # one mount over the other: whose file is it?
    assert mountstats.lock_requests(str(tmp_path / "mountstats")) == {}


@pytest.mark.parametrize(
    ("mode", "before", "after", "stays"),
    [
        (EXCLUSIVE, {"/srv/vm": 7}, {"/srv/vm": 8}, False),
        (EXCLUSIVE, {"/srv/vm": 7}, {"/srv/vm": 7}, True),
        (EXCLUSIVE, {"/srv/vm": 7, "/srv/b": 1}, {"/srv/vm": 7, "/srv/b": 9}, True),
        (EXCLUSIVE, {}, {}, False),  # nothing is known; fdinfo has the word
        (SHARED, {"/srv/vm": 7}, {"/srv/vm": 7}, False),
    ],
)
def test_a_lock_without_a_request_stays_in_the_client_whatever_fdinfo_says(
    disk: Path, mode: str, before: dict[str, int], after: dict[str, int], stays: bool
) -> None:
    file = claimed(disk, mode)
    file.lock(WHOLE)
    assert stay_here([file], before, lambda: after) == ([file] if stays else [])
    os.close(file.fd)


def test_the_second_name_is_gone_and_the_first_one_untouched(disk: Path) -> None:
    fd = opened(disk)
    left = f"{delegation.PREFIX}{os.fstat(fd).st_ino}"
    os.link(disk, disk.parent / left)  # by one that was killed half way
    delegation.give_back(fd, str(disk))
    assert os.listdir(disk.parent) == ["disk.raw"]
    assert (os.fstat(fd).st_nlink, os.stat(disk).st_ino, disk.read_bytes()) == (1, os.fstat(fd).st_ino, b"x" * 4096)
    os.close(fd)


def test_another_file_at_that_path_is_left_alone(disk: Path) -> None:
    fd = opened(disk)
    os.rename(disk, disk.parent / "moved")
    disk.symlink_to("moved")
    with pytest.raises(delegation.NotGivenBack, match="another file"):
        delegation.give_back(fd, str(disk))
    assert sorted(os.listdir(disk.parent)) == ["disk.raw", "moved"]
    os.close(fd)


@pytest.mark.parametrize("excluded", [[], [(100, 200)], [(0, 2), (100, 200)]])
def test_the_ranges_taken_anew_are_what_they_were(disk: Path, excluded: list[tuple[int, int]]) -> None:
    fd, rival = opened(disk), opened(disk)
    pieces = held_ranges(excluded)
    for piece in pieces:
        ofd.lock(fd, str(disk), ofd.WRITE, piece)
    delegation.send_locks(fd, str(disk), str(disk), pieces)
    for piece in pieces:
        with pytest.raises(LockConflict):
            ofd.lock(rival, str(disk), ofd.WRITE, piece)
    for hole in excluded:
        ofd.lock(rival, str(disk), ofd.WRITE, hole)
    os.close(rival)
    os.close(fd)


def test_a_claim_is_refused_with_the_cause_and_the_cure_when_it_cannot_be_given_back(disk: Path) -> None:
    file = claimed(disk)
    file.lock(WHOLE)
    file.real = str(disk.parent / "moved.raw")
    with pytest.raises(LockUnavailable, match="has delegated the file to this host") as refused:
        claim_delegated.give_back(str(disk), file.fd, file.real, 0)
    assert "delegation_watermark" in refused.value.hint
    assert ofd.conflict(opened(disk), ofd.WRITE, WHOLE) is None, "nothing stays locked"


def test_a_claim_ends_when_the_server_delegates_the_file_again_and_again(disk: Path) -> None:
    file = claimed(disk)
    for tries in range(3):
        claim_delegated.give_back(str(disk), file.fd, file.real, tries)
    with pytest.raises(LockUnavailable, match="at once"):
        claim_delegated.give_back(str(disk), file.fd, file.real, 3)
    os.close(file.fd)
