"""A probe of a lock: what counts as an answer of the server, and how the lock is asked where SEEK is none."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_nfs_client import POINT, FakeNfsClient
from vmguard.adapters.linux import mounts
from vmguard.adapters.linux.mountstats import NfsStatistics
from vmguard.adapters.storage.lock_probe import MountProbe, Outcome
from vmguard.adapters.storage.probe_calls import ProbeCalls, is_absent

KEPT = Outcome("", True)
LOST = Outcome("EIO", False)
SEEK = "SEEK"
NO_SEEK = "READ (the server has no SEEK)"
ODD = "READ (the server answers SEEK with EINVAL)"
OLD = "READ (NFSv4.2 alone has SEEK)"
FD = 7


@pytest.fixture
def client() -> FakeNfsClient:
    return FakeNfsClient()


def probe_of(client: FakeNfsClient, seek: bool = True) -> MountProbe:
    return MountProbe(POINT, seek, client.statistics, client)


def old_belief(client: FakeNfsClient) -> str:
    """The control: what a probe said that believed every answer to SEEK."""
    try:
        client.seek(FD)
    except OSError as problem:
        return errno.errorcode[problem.errno or 0]
    return ""


#: the answers to SEEK and to READ; O_DIRECT; a busy page; the outcome, and how the mount is probed from then on
SERVERS: dict[str, tuple[int, int, bool, bool, tuple[str, bool, bool], str]] = {
    "right": (errno.ENXIO, 0, True, False, ("", True, True), SEEK),
    "right, success with eof": (0, 0, True, False, ("", True, True), SEEK),
    "right, page cache, busy": (errno.ENXIO, 0, False, True, ("", True, True), SEEK),
    "absent": (errno.EOPNOTSUPP, 0, True, False, ("", True, True), NO_SEEK),
    "absent, page cache": (errno.EOPNOTSUPP, 0, False, False, ("", True, True), NO_SEEK),
    "absent, page cache, busy": (errno.EOPNOTSUPP, 0, False, True, ("dirty or in use", True, False), NO_SEEK),
    "absent, broken disk": (errno.EOPNOTSUPP, errno.EIO, True, False, ("EIO", True, True), NO_SEEK),
    "odd": (errno.EINVAL, 0, True, False, ("", True, True), ODD),
    "odd, page cache": (errno.EINVAL, 0, False, False, ("", True, True), ODD),
    "odd, page cache, busy": (errno.EINVAL, 0, False, True, ("dirty or in use", True, False), SEEK),
    "odd in both": (errno.EINVAL, errno.EINVAL, True, False, ("READ was answered with EINVAL", True, False), SEEK),
    "unknown error": (524, 0, True, False, ("", True, True), "READ (the server answers SEEK with 524)"),
    "unknown error in both": (524, 524, True, False, ("READ was answered with 524", True, False), SEEK),
    "broken disk": (errno.EIO, errno.EIO, True, False, ("EIO", True, True), SEEK),
    "broken disk, page cache, busy": (errno.EIO, 0, False, True, ("EIO", True, True), SEEK),
    "file is gone": (errno.ESTALE, errno.ESTALE, True, False, ("ESTALE", True, True), SEEK),
}


@pytest.mark.parametrize("name", SERVERS)
def test_every_kind_of_server(client: FakeNfsClient, name: str) -> None:
    client.seek_error, client.read_error, client.direct, client.busy, expected, kind = SERVERS[name]
    probe = probe_of(client)
    for _ in range(3):
        problem, reached, asked = probe.probe(FD)
        assert expected[0] in problem if expected[0] else problem == ""
        assert (reached, asked) == expected[1:]
        assert probe.kind == kind


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("seek", [True, False])
def test_a_lock_that_the_client_knows_to_be_lost_is_lost_on_every_kind_of_server(
    client: FakeNfsClient, name: str, seek: bool
) -> None:
    client.seek_error, client.read_error, client.direct, client.busy, *_ = SERVERS[name]
    probe = probe_of(client, seek)
    probe.probe(FD)
    client.lost, client.busy = True, False  # its pages become clean once it is frozen
    assert probe.probe(FD) == LOST


@pytest.mark.parametrize(("direct", "busy"), [(True, False), (False, False), (False, True)])
def test_an_older_version_is_asked_by_read(client: FakeNfsClient, direct: bool, busy: bool) -> None:
    client.direct, client.busy = direct, busy
    probe = probe_of(client, seek=False)
    assert probe.kind == OLD
    assert probe.probe(FD).asked is not busy
    assert (client.asked("SEEK"), probe.kind) == (0, OLD)


def test_an_answer_of_the_local_kernel_is_believed_by_the_old_probe_alone(client: FakeNfsClient) -> None:
    client.seek_error = errno.EOPNOTSUPP
    assert [old_belief(client) for _ in range(3)] == ["", "", ""]
    assert client.asked("SEEK") == 1, "the rest was answered by the client"
    client.lost = True
    assert old_belief(client) == "", "even of a lost lock"
    assert probe_of(client).probe(FD) == LOST


def test_the_first_not_supported_is_no_proof_although_a_request_went_out(client: FakeNfsClient) -> None:
    client.seek_error, client.read_error = errno.EOPNOTSUPP, errno.ESTALE
    assert probe_of(client).probe(FD) == Outcome("ESTALE", True)
    assert client.asked("SEEK") == 1


def test_a_second_seek_is_asked_once_for_each_session(client: FakeNfsClient) -> None:
    probe = probe_of(client)
    for _ in range(5):
        assert probe.probe(FD) == KEPT
    assert client.asked("SEEK") == 6
    client.session += 1
    for _ in range(5):
        assert probe.probe(FD) == KEPT
    assert (client.asked("SEEK"), client.asked("READ"), client.asked("STATFS")) == (12, 0, 0)


def test_seek_that_disappears_later_and_comes_back_with_a_mount_made_anew(client: FakeNfsClient) -> None:
    probe = probe_of(client)
    assert probe.probe(FD) == KEPT
    client.seek_error, client.session = errno.EOPNOTSUPP, 2
    assert (probe.probe(FD), probe.kind) == (KEPT, NO_SEEK)
    client.seek_error, client.session, client.age = errno.ENXIO, 3, 900
    assert (probe.probe(FD), probe.kind) == (KEPT, NO_SEEK), "the client never asks again"
    client.remount()
    assert (probe.probe(FD), probe.kind) == (KEPT, SEEK)


def test_seek_that_disappears_without_a_new_session_shows_with_the_next_probe(client: FakeNfsClient) -> None:
    probe = probe_of(client)
    assert probe.probe(FD) == KEPT
    client.seek_error, client.read_error = errno.EOPNOTSUPP, errno.ESTALE
    assert probe.probe(FD) == KEPT
    assert probe.probe(FD).problem == "ESTALE"


def test_an_odd_seek_is_tried_again_in_the_next_session(client: FakeNfsClient) -> None:
    client.seek_error = errno.EINVAL
    probe = probe_of(client)
    assert (probe.probe(FD), probe.kind) == (KEPT, ODD)
    client.seek_error = errno.ENXIO
    assert (probe.probe(FD), probe.kind, client.asked("SEEK")) == (KEPT, ODD, 1)
    client.session += 1
    assert (probe.probe(FD), probe.kind) == (KEPT, SEEK)


def test_another_version_mounted_there_is_probed_in_its_own_way(client: FakeNfsClient) -> None:
    probe = probe_of(client, seek=False)
    probe.set_version(True)
    assert (probe.probe(FD), probe.kind) == (KEPT, SEEK)
    probe.set_version(False)
    assert (probe.probe(FD), probe.kind) == (KEPT, OLD)


def test_a_file_of_0_bytes_says_nothing_through_the_page_cache_and_all_with_o_direct(client: FakeNfsClient) -> None:
    client.size, client.direct = 0, False
    probe = probe_of(client, seek=False)
    problem, reached, asked = probe.probe(FD)
    assert ("0 bytes" in problem, reached, asked) == (True, True, False)
    client.direct = True
    assert probe.probe(FD) == KEPT


def test_a_read_that_sends_nothing_says_nothing(client: FakeNfsClient) -> None:
    client.local_cache = True
    assert probe_of(client, seek=False).probe(FD) == Outcome("no READ went out", True, asked=False)


def test_a_page_of_which_nothing_is_known_counts_for_its_errors_alone(client: FakeNfsClient) -> None:
    client.direct = client.tells_residency = False
    probe = probe_of(client, seek=False)
    assert not probe.probe(FD).asked
    client.read_error = errno.ESTALE
    assert probe.probe(FD) == Outcome("ESTALE", True)


def test_requests_that_are_cut_off_by_hand_are_neither_an_answer_nor_a_loss(client: FakeNfsClient) -> None:
    client.cut = True
    problem, reached, asked = probe_of(client).probe(FD)
    assert ("umount -f" in problem, reached, asked) == (True, False, False)


def test_a_mount_that_is_not_in_mountstats_is_read_and_believed_for_where_it_came_from(client: FakeNfsClient) -> None:
    """``umount -l`` beneath a running VM: nothing can be counted."""
    probe = MountProbe("/elsewhere", True, client.statistics, client)
    assert probe.probe(FD) == KEPT
    client.seek_error = errno.EOPNOTSUPP
    assert probe.probe(FD) == KEPT
    client.busy, client.direct = True, False
    assert not probe.probe(FD).asked
    client.lost, client.busy = True, False
    assert probe.probe(FD) == LOST


def test_statistics_that_cannot_be_read_end_no_thread(client: FakeNfsClient) -> None:
    def fail() -> list[NfsStatistics]:
        raise OSError(errno.EMFILE, "no descriptor is left")

    assert MountProbe(POINT, True, fail, client).probe(FD) == KEPT


# -- others who ask ---------------------------------------------------------------------------------------------------


def test_our_own_seek_that_was_on_its_way_before_proves_nothing_about_this_one(client: FakeNfsClient) -> None:
    """The older one is answered "not supported" while this one is answered by the client: the count has risen."""
    client.read_error = errno.ESTALE
    probe = probe_of(client)
    with probe._window():  # the older one, still on its way
        client.capable = False
        client.beside = lambda: client.count("SEEK", True) if client.asked("SEEK") == 0 else None
        assert probe.probe(FD) == Outcome("ESTALE", True)


def test_the_control_without_that_count_it_would_have_been_believed(client: FakeNfsClient) -> None:
    client.read_error = errno.ESTALE
    probe = probe_of(client)
    client.capable = False
    client.beside = lambda: client.count("SEEK", True) if client.asked("SEEK") < 2 else None
    assert probe.probe(FD) == KEPT, "two of somebody else's: the one thing that is not known to be older"
    assert probe.probe(FD) == Outcome("ESTALE", True), "and the next probe shows it"


def test_older_probes_that_hang_do_not_keep_a_newer_one_from_its_proof(client: FakeNfsClient) -> None:
    probe = probe_of(client)
    with probe._window(), probe._window(), probe._window():
        assert probe.probe(FD) == KEPT
    assert probe.kind == SEEK
    assert client.asked("SEEK") <= 8


def test_a_newer_proof_proves_the_older_ones_too(client: FakeNfsClient) -> None:
    probe = probe_of(client)
    asked: list[Outcome] = []

    def newer() -> None:
        client.beside = lambda: None
        asked.append(probe.probe(FD))

    client.beside = newer
    assert probe.probe(FD) == KEPT
    assert asked == [KEPT]


def test_a_lost_lock_beside_probes_that_fail_is_found_lost(client: FakeNfsClient) -> None:
    """Every good SEEK is counted as an error (NFS4ERR_NXIO): one call without any beside it is enough."""
    client.lost = True
    looks = iter(range(100))

    def statistics() -> list[NfsStatistics]:
        if next(looks) < 6:
            client.count("SEEK", True)
        return client.statistics()

    assert MountProbe(POINT, True, statistics, client).probe(FD) == LOST


def test_many_threads_prove_each_of_their_probes(client: FakeNfsClient) -> None:
    probe = probe_of(client)
    outcomes: list[Outcome] = []
    ask: Callable[[], None] = lambda: outcomes.extend(probe.probe(FD) for _ in range(50))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {KEPT}
    assert (len(outcomes), probe.kind) == (400, SEEK)


# -- the page cache, for real -----------------------------------------------------------------------------------------


def test_a_page_is_absent_after_it_was_given_back(tmp_path: Path) -> None:
    seen = mounts.mount_of_path(str(tmp_path), list(mounts.mounts()))
    in_memory = seen is not None and seen.type == "tmpfs"  # nothing can be given back there
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 3 * 4096)
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        assert os.pread(fd, 4096, 4096) == b"x" * 4096
        assert is_absent(fd, 1) is False
        assert ProbeCalls().give_back(fd, 1) is (not in_memory)
        assert os.pread(fd, 4096, 4096) == b"x" * 4096
        assert set(ProbeCalls().some_pages(fd)) <= {0, 1, 2}
    finally:
        os.close(fd)


def test_an_empty_file_has_no_page(tmp_path: Path) -> None:
    with open(tmp_path / "empty", "wb") as stream:
        assert ProbeCalls().some_pages(stream.fileno()) == []
    assert ProbeCalls().some_pages(10**6) == [0], "the read will tell"
