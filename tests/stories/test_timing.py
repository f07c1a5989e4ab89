"""The watchdog's time spans: the worked timeline is the computed one, impossible wishes are refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmguard.core.watchdog import timing
from vmguard.core.watchdog.timing import ImpossibleTiming, Wishes, timeline


def test_the_docstring_shows_what_is_computed() -> None:
    lines = [timeline(lease) for lease in (10, 30, 90)]
    for tables in ([line.outage() for line in lines], [line.recovery() for line in lines]):
        for steps in zip(*tables, strict=True):
            shown = "".join(f"{second:8.1f}    " for second, _ in steps) + f"  {steps[0][1]}"
            assert shown.strip() in (timing.__doc__ or ""), shown


@given(st.floats(10, 3600))
def test_every_lease_of_a_server_works_by_default(lease: float) -> None:
    line = timeline(lease)
    assert 2 * line.probe <= line.late < line.freeze < line.freeze + line.slack <= line.expiry
    assert line.urgent <= line.probe
    seconds = [second for second, _ in line.outage()]
    assert seconds == sorted(seconds)


@given(
    st.floats(1, 4000),
    st.builds(Wishes, margin=st.none() | st.floats(0, 4000), probe=st.none() | st.floats(0.01, 400)),
)
def test_wishes_are_refused_or_safe(lease: float, wishes: Wishes) -> None:
    try:
        line = timeline(lease, wishes)
    except ImpossibleTiming:
        return
    assert line.freeze + line.slack <= line.expiry, "a VM could still run when the lease ends"
    assert line.late < line.freeze


@pytest.mark.parametrize(
    ("lease", "wishes", "text"),
    [
        (10, Wishes(margin=7), "margin 7 s is too long for a lease of 10 s: it must be shorter than 6.667 s"),
        (10, Wishes(margin=1), "margin 1 s is too short for a lease of 10 s: to notice and to stop all VMs can take"),
        (30, Wishes(margin=3, tick=5), "too short for a lease of 30 s"),
        (10, Wishes(probe=2), "probing every 2 s does not suit a lease of 10 s: at most every 1.667 s"),
        (10, Wishes(probe=0), "probing every 0 s"),
        (90, Wishes(grace=45), "grace period of 45 s is shorter than its lease of 90 s"),
        (10, Wishes(slow_round=0.5), "slow round of 0.5 s is shorter than one probe interval"),
        (3, Wishes(), "too long for a lease of 3 s"),
        (0, Wishes(), "a lease of 0 s is none"),
    ],
)
def test_impossible_times_are_refused_in_words(lease: float, wishes: Wishes, text: str) -> None:
    with pytest.raises(ImpossibleTiming) as caught:
        timeline(lease, wishes)
    assert text in str(caught.value)
