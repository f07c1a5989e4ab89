"""The fence ladder: each rung waits for its proof, in order, and a daemon that was killed on any rung begins there."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core.watchdog.fence_ladder import LADDER, FencedProcess, FenceEvidence, Life, Next, Others, Rung, next_rung
from vmguard.core.watchdog.policy import AfterFence, HostFence, Policy
from vmguard.core.watchdog.timing import Rungs

RESTART = Policy(after_fence=AfterFence.RESTART)
BEGIN = FenceEvidence(
    processes=(FencedProcess("qemu", 10, Life.RUNNING), FencedProcess("swtpm", 11, Life.RUNNING)),
    pinned=True,
    copied=False,
    drained=False,
    others=Others.WAITING,
    released=False,
    cleaned=False,
    followed=False,
)
ALONE = replace(BEGIN, pinned=False, copied=True, others=Others.NONE)
EVIDENCE = st.builds(
    FenceEvidence,
    processes=st.lists(
        st.builds(FencedProcess, st.just("qemu"), st.just(10), st.sampled_from(Life), st.booleans()), max_size=3
    ).map(tuple),
    pinned=st.booleans(),
    copied=st.booleans(),
    drained=st.booleans(),
    others=st.sampled_from(Others),
    released=st.booleans(),
    cleaned=st.booleans(),
    followed=st.booleans(),
)


def look(
    seen: FenceEvidence, since: dict[Rung, float] | None = None, now: float = 0.0, policy: Policy = RESTART
) -> Next:
    return next_rung(seen, since if since is not None else {}, now, Rungs(), policy)


def climb(seen: FenceEvidence) -> list[tuple[Rung, FenceEvidence]]:
    """Each rung does what it is there for."""
    path = []
    for _ in range(20):
        rung = look(seen).rung
        path.append((rung, seen))
        if rung is Rung.DONE:
            return path
        seen = after(rung, seen)
    raise AssertionError(f"the climb does not end: {[rung for rung, _ in path]}")


def after(rung: Rung, seen: FenceEvidence) -> FenceEvidence:
    if rung is Rung.KILL:
        return replace(seen, processes=tuple(replace(item, killed=True) for item in seen.processes))
    if rung is Rung.DEATH:
        return replace(seen, processes=tuple(replace(item, life=Life.DEAD) for item in seen.processes))
    name = {
        Rung.COPY: "copied",
        Rung.DRAIN: "drained",
        Rung.CUT: "drained",
        Rung.RELEASE: "released",
        Rung.CLEAN_UP: "cleaned",
        Rung.AFTER: "followed",
    }[rung]
    return replace(seen, **{name: True})  # type: ignore[arg-type]


def test_the_order_of_the_climb() -> None:
    rungs = [rung for rung, _ in climb(BEGIN)]
    assert rungs == [
        Rung.COPY,
        Rung.KILL,
        Rung.DEATH,
        Rung.DRAIN,
        Rung.RELEASE,
        Rung.CLEAN_UP,
        Rung.AFTER,
        Rung.DONE,
    ]


def test_the_order_of_the_climb_without_a_pin_and_alone() -> None:
    rungs = [rung for rung, _ in climb(ALONE)]
    assert rungs == [Rung.KILL, Rung.DEATH, Rung.CUT, Rung.RELEASE, Rung.CLEAN_UP, Rung.AFTER, Rung.DONE]


@pytest.mark.parametrize(
    "start",
    [BEGIN, replace(BEGIN, pinned=False), replace(BEGIN, pinned=False, others=Others.NONE), ALONE],
)
def test_a_killed_daemon_begins_again_where_the_evidence_says(start: FenceEvidence) -> None:
    path = climb(start)
    for index, (_, seen) in enumerate(path):
        assert climb(seen) == path[index:]


@given(EVIDENCE, st.floats(0, 1000), st.booleans(), st.sampled_from(HostFence))
def test_no_rung_is_reached_without_what_comes_before_it(
    seen: FenceEvidence, waited: float, known: bool, host: HostFence
) -> None:
    since = dict.fromkeys(Rung, 0.0) if known else {}
    step = look(seen, since, waited, replace(RESTART, host_fence=host))
    climbed = list(itertools.takewhile(lambda rung: rung is not step.rung, LADDER))
    if Rung.DEATH in climbed:
        assert seen.dead, "released although not everybody is dead"
    if Rung.RELEASE in climbed or step.rung is Rung.RELEASE:
        assert seen.drained, "the shield is dropped while requests are queued"
    if step.may_cut:
        assert not (seen.pinned and seen.copied)
        assert seen.others is not Others.WAITING
        assert seen.dead
    if step.host_fence:
        assert step.alarm
        assert host is HostFence.WATCHDOG
    assert step.sentence


@pytest.mark.parametrize("life", [Life.BLOCKED, Life.LEADER_GONE, Life.UNKNOWN, Life.RUNNING])
def test_only_the_pidfd_says_dead(life: Life) -> None:
    seen = replace(BEGIN, copied=True, processes=(FencedProcess("qemu", 10, life, killed=True),), drained=True)
    assert look(seen).rung is Rung.DEATH


@pytest.mark.parametrize(
    ("change", "rung", "alarm", "text"),
    [
        ({}, Rung.KILL, True, "could not be copied: its queued writes can land; SIGKILL was not taken"),
        (
            {"processes": (FencedProcess("qemu", 10, Life.BLOCKED, True),)},
            Rung.DEATH,
            True,
            "qemu (pid 10) is killed, but",
        ),
        ({"processes": (), "copied": True}, Rung.DRAIN, True, "requests of its files are still queued"),
        ({"processes": ()}, Rung.CUT, True, "would hurt VMs that still wait"),
        ({"processes": (), "drained": False, "pinned": False}, Rung.CUT, True, "would hurt VMs that still wait"),
        ({"processes": (), "drained": True}, Rung.RELEASE, True, "its descriptors are not closed"),
        (
            {"processes": (), "drained": True, "released": True},
            Rung.DONE,
            True,
            "the hypervisor does not confirm that it is off; it could not be started again; the fence is complete",
        ),
    ],
)
def test_when_the_deadline_passes(change: dict[str, object], rung: Rung, alarm: bool, text: str) -> None:
    step = look(replace(BEGIN, **change), dict.fromkeys(Rung, 0.0), 1000.0)  # type: ignore[arg-type]
    assert (step.rung, step.alarm) == (rung, alarm)
    assert text in step.sentence


def test_a_copy_that_cannot_be_taken_delays_the_kill_by_its_deadline_and_no_more() -> None:
    since: dict[Rung, float] = {}
    first = look(BEGIN, since, 10.0)
    assert (first.rung, first.alarm) == (Rung.COPY, False)
    assert look(BEGIN, since, 10.0 + Rungs().copy - 0.01).rung is Rung.COPY
    late = look(BEGIN, since, 10.0 + Rungs().copy)
    assert (late.rung, late.alarm, late.host_fence) == (Rung.KILL, True, False)
    assert late.sentence.startswith("the descriptors that carry its locks could not be copied: its queued writes can")
    assert look(replace(BEGIN, copied=True), since, 10.0 + Rungs().copy) == look(replace(BEGIN, copied=True))


@pytest.mark.parametrize("others", [Others.NONE, Others.JUDGED])
def test_a_vm_killed_without_its_copies_is_cut_off_as_one_that_was_never_pinned(others: Others) -> None:
    dead = replace(BEGIN, processes=(), others=others)
    assert [look(replace(dead, copied=copied), dict.fromkeys(Rung, 0.0), 11.0).rung for copied in (True, False)] == [
        Rung.DRAIN,
        Rung.CUT,
    ]


def test_of_a_vm_that_is_pinned_in_part_what_can_be_copied_is_copied() -> None:
    assert look(replace(BEGIN, pinned=False)).rung is Rung.COPY
    assert look(replace(BEGIN, pinned=False, copied=True)).rung is Rung.KILL


def test_without_a_restart_nothing_is_started() -> None:
    seen = replace(climb(BEGIN)[-1][1], followed=False)
    assert look(seen, policy=Policy()).rung is Rung.DONE
    assert look(seen).rung is Rung.AFTER
