"""What the kernel says about mounts: one parser of mountstats for the watchdog, the probes and the doctor."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmguard.adapters.linux import mountstats
from vmguard.adapters.linux.mounts import parse_mountinfo, unescape
from vmguard.adapters.linux.mountstats import parse_mountstats
from vmguard.adapters.storage import lock_probe
from vmguard.doctor import look_mount

_V4 = """\
device nas:/{export} mounted on {point} with fstype nfs4 statvers=1.1
\tage:\t{age}
\tnfsv4:\tbm0=0xfdffbfff,acl=0x3,sessions,pnfs=not configured,lease_time={lease},lease_expired=0
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\txprt:\ttcp 751 0 2 0 0 90 90 0 90 0 2 0 0
\txprt:\ttcp 763 0 1 0 0 10 10 0 10 0 2 0 0
\tper-op statistics
\t        READ: 7 7 0 1176 29000 0 3 3 2
\t        SEEK: 9 9 0 1 1 0 1 1 {errors}
\t        LOCK: 5 5 0 1000 560 0 4 4 1
\t EXCHANGE_ID: 2 2 0 1 1 0 1 1 0
"""
_V3 = """\
device old:/x mounted on {point} with fstype nfs statvers=1.1
\tage:\t10
\tper-op statistics
\t        READ: 1 1 0 44 24 0 0 0 0
"""


def write(folder: Path, *blocks: str) -> str:
    path = folder / "mountstats"
    path.write_text("device proc mounted on /proc with fstype proc\n" + "".join(blocks))
    return str(path)


def v4(point: str, export: str = "a", age: int = 1, lease: str = "90", errors: int = 0) -> str:
    return _V4.format(export=export, point=point, age=age, lease=lease, errors=errors)


def test_only_a_mount_with_a_lease_is_watched(tmp_path: Path) -> None:
    path = write(tmp_path, v4("/a"), _V3.format(point="/b"), "device nfsd mounted on /proc/fs/nfsd with fstype nfsd\n")
    assert [seen.point for seen in mountstats.all_statistics(path)] == ["/a", "/b"]
    (seen,) = mountstats.statistics(path).values()
    assert (seen.lease, seen.age, seen.pnfs) == (90.0, 1.0, "not configured")
    assert (seen.exchange_id, seen.create_session, seen.count("LOCK"), seen.errors("LOCK")) == (2, 0, 5, 1)
    assert seen.connects == 3, "nconnect=2"


def test_a_lease_that_is_no_number_is_none_at_all_but_the_mount_is_known(tmp_path: Path) -> None:
    assert mountstats.statistics(write(tmp_path, v4("/a", lease="?")))["/a"].lease == 0.0


def test_a_mount_that_a_mount_without_a_lease_hides_is_watched_all_the_same(tmp_path: Path) -> None:
    """Disks that were opened before are still open there."""
    assert mountstats.statistics(write(tmp_path, v4("/a", lease="45"), _V3.format(point="/a")))["/a"].lease == 45.0


def errors_of(point: str, operation: str, path: str) -> int | None:
    count = lock_probe.count_of(point, operation, lambda: mountstats.all_statistics(path))
    return None if count is None else count.errors


def test_a_space_in_a_mount_point_hides_the_errors_from_nobody(tmp_path: Path) -> None:
    path = write(tmp_path, v4("/srv/v\\040m", errors=3))
    assert errors_of("/srv/v m", "SEEK", path) == 3
    assert errors_of("/srv/v m", "READ", path) == 2


def test_of_two_mounts_on_one_point_nobody_knows_whose_errors_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, v4("/a", errors=3), v4("/a", "b", errors=8), v4("/b", errors=1))
    assert lock_probe.count_of("/a", "SEEK", lambda: mountstats.all_statistics(path)) is None
    assert errors_of("/b", "SEEK", path) == 1


def test_an_operation_that_is_not_listed_has_no_errors_to_tell_of(tmp_path: Path) -> None:
    assert errors_of("/a", "SEEK", write(tmp_path, _V3.format(point="/a"))) is None


def test_the_counts_of_a_probe(tmp_path: Path) -> None:
    path = write(tmp_path, v4("/a", age=33))
    assert lock_probe.count_of("/a", "READ", lambda: mountstats.all_statistics(path)) == (7, 29000, 2, (2, 0), 33.0)
    assert lock_probe.count_of("/a", "STATFS", lambda: mountstats.all_statistics(path)) == (0, 0, None, (2, 0), 33.0)


def test_lock_requests_are_those_of_the_mount_that_a_path_shows(tmp_path: Path) -> None:
    with open(write(tmp_path, v4("/a"), _V3.format(point="/b")), encoding="utf-8") as stream:
        assert look_mount.lock_requests("/a", stream) == 5
        assert look_mount.lock_requests("/b", stream) is None, "NFSv3 locks through another program"
        assert look_mount.lock_requests("/nowhere", stream) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("v\\040m", "v m"),
        ("a\\134040", "a\\040"),
        ("v\\039m", "v\\039m"),
        ("a\\", "a\\"),
        ("a\\4", "a\\4"),
        ("\\²²²", "\\²²²"),
    ],
)
def test_only_what_the_kernel_escapes_is_undone(text: str, wanted: str) -> None:
    assert unescape(text) == wanted


def test_a_line_of_another_form_hides_no_other_one() -> None:
    lines = ["x 1 0:41 / /a rw - nfs4 a:b rw", "1 1 x / /b rw - nfs4 a:b rw", "2 1 0:42 / /c rw - nfs4 a:b rw"]
    assert [mount.point for mount in parse_mountinfo(lines)] == ["/c"]


def test_counts_that_are_no_numbers_count_nothing() -> None:
    lines = ["device a:b mounted on /c with fstype nfs4 statvers=1.1", "nfsv4: lease_time=²", "SEEK: ~9 9", "READ:"]
    [found] = parse_mountstats(lines)
    assert (found.lease, found.count("SEEK"), found.count("READ"), found.received("SEEK")) == (0.0, 0, 0, 0)


def test_a_carriage_return_in_a_mount_point_ends_no_line(tmp_path: Path) -> None:
    """Any user may mount a FUSE file system on a folder of such a name; the kernel does not escape it."""
    path = tmp_path / "mountstats"
    path.write_bytes(v4("/srv/a\rage:9", age=3).encode())
    [seen] = mountstats.all_statistics(str(path))
    assert (seen.point, seen.age, seen.lease) == ("/srv/a\rage:9", 3.0, 90.0)
