"""What an answer to a probe does to the lease of a mount and to the verdict on a lock."""

from __future__ import annotations

import pytest

from vmguard.core.watchdog.events import Answer, LockId, LockInfo, Report, Verdict
from vmguard.core.watchdog.lease import MountLease
from vmguard.core.watchdog.states import Lock
from vmguard.core.watchdog.timing import Wishes, timeline

LOCK = LockId("web", (1, 2))
ERRNOS = ["EINVAL", "ENXIO", "EOPNOTSUPP", "524", "10044", "EREMOTEIO", "ESTALE", "EIO", "EACCES"]


def watched(now: float = 100.0) -> tuple[MountLease, Lock]:
    """A mount with a lease of 10 s and one lock, granted just now."""
    mount = MountLease("/srv/vm", timeline(10.0, Wishes()), now)
    mount.put(LockInfo(LOCK, "/srv/vm", "/srv/vm/web.raw", granted=now))
    return mount, mount.locks[LOCK]


def answer(mount: MountLease, now: float, problem: str, reached: bool, asked: bool = True, kind: str = "") -> None:
    mount.clock(now)
    mount.answer(Answer(now, "/srv/vm", LOCK, mount.locks[LOCK].serial, now - 0.1, problem, reached, asked, kind))


@pytest.mark.parametrize("problem", ERRNOS)
def test_any_answer_of_the_server_renews_the_lease(problem: str) -> None:
    mount, lock = watched()
    answer(mount, 103.0, problem, reached=True)
    assert mount.confirmed == 102.9
    assert lock.verdict is Verdict.UNKNOWN, "which is read neither as kept nor as lost"


@pytest.mark.parametrize("problem", ERRNOS)
def test_what_reached_nobody_renews_nothing(problem: str) -> None:
    mount, lock = watched()
    answer(mount, 103.0, problem, reached=False)
    assert mount.confirmed == 100.0
    assert not lock.lost, "EIO must come twice"


@pytest.mark.parametrize("problem", ERRNOS)
def test_only_an_eio_of_the_clients_own_is_a_loss(problem: str) -> None:
    for reached in (True, False):
        mount, lock = watched()
        for second in range(3):
            answer(mount, 103.0 + second, problem, reached)
        assert lock.lost is (problem == "EIO" and not reached)


@pytest.mark.parametrize("reached", [True, False])
def test_what_was_not_asked_is_no_doubt_and_ends_none(reached: bool) -> None:
    mount, lock = watched()
    answer(mount, 102.0, "the page is in use", reached, asked=False)
    assert (str(lock.verdict), mount.confirmed) == ("kept", 101.9 if reached else 100.0)
    mount.doubt_all("a new session")
    answer(mount, 104.0, "the page is in use", reached, asked=False)
    assert str(lock.verdict) == "unknown"
    for second in (105.0, 106.0):  # the first was sent while the mount was late
        answer(mount, second, "", reached=True)
    assert str(lock.verdict) == "kept"


def test_a_lock_that_cannot_be_probed_for_a_slow_round_is_reported_once() -> None:
    mount, _ = watched()
    for second in range(0, 900, 2):
        answer(mount, 101.0 + second, "the page is in use", reached=True, asked=False)
    told = [report for report in mount.take_reports() if isinstance(report, Report)]
    assert [report.code for report in told] == ["lock.not-probed"]
    for now in (1100.0, 1101.0):
        answer(mount, now, "", reached=True)
    for second in range(0, 400, 2):
        answer(mount, 1102.0 + second, "the page is in use", reached=True, asked=False)
    told = [report for report in mount.take_reports() if isinstance(report, Report)]
    assert [report.code for report in told if report.code.startswith("lock.")] == ["lock.not-probed"]


def test_how_locks_are_probed_is_told_when_it_is_not_seek_and_when_it_changes() -> None:
    mount, _ = watched()
    told: list[str] = []
    for kind in ("SEEK", "SEEK", "READ (the server has no SEEK)", "READ (the server has no SEEK)", "SEEK"):
        answer(mount, 101.0, "", reached=True, kind=kind)
        assert mount.probes == kind
        told += [report.sentence for report in mount.take_reports() if isinstance(report, Report)]
    assert told == [
        "/srv/vm: locks are probed by READ (the server has no SEEK)",
        "/srv/vm: locks are probed by SEEK",
    ]
