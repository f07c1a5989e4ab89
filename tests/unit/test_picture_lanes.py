"""Lines of a history become bars: ends, daemons that begin anew, lines that are lacking, clocks that are set."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmguard.core.pictures import page
from vmguard.core.pictures.bars import Bar, Kind, Lane, Place, Sign
from vmguard.core.pictures.chapters import Source, album
from vmguard.core.pictures.clocks import host_clock
from vmguard.core.pictures.entry import Entry
from vmguard.core.pictures.lanes import host_picture

BASE = datetime.datetime(2026, 11, 20, 13, tzinfo=datetime.UTC)


def line(second: float, code: str, text: str = "", level: str = "info", ahead: float = 0.0, **fields: str) -> Entry:
    """Return a line written at ``second`` of the boot clock, by a wall clock that is ``ahead``."""
    at = (BASE + datetime.timedelta(seconds=second + ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")
    value = {"at": at, "boottime": second, "level": level, "code": code, "text": text or code, "fields": fields}
    return Entry.from_json(value)


def seen(second: float, mount: str = "/nas") -> Entry:
    text = f"{mount}: lease 10 s; freeze 8 s after the last answered request"
    return line(second, "mount.seen", text, mount=mount)


def move(second: float, old: str, new: str, age: float) -> Entry:
    text = f"/nas: {old} => {new}: whatever"
    return line(second, f"mount.{new}", text, mount="/nas", phase=new, age=f"{age:.1f}")


def freeze(second: float, not_done: str = "") -> Entry:
    fields = {"vm": "v1", "name": "web", "mount": "/nas"} | ({"not_done": not_done} if not_done else {})
    return Entry.from_json({**line(second, "vm.freeze", "VM 'web' is frozen").json, "fields": fields})


def thaw(second: float, held: float) -> Entry:
    return line(second, "vm.thaw", f"VM 'web' thawed after {held:.1f} s: every lock", vm="v1", name="web", mount="/nas")


def lane(entries: list[Entry], place: Place, until: float | None = None) -> Lane:
    return next(lane for lane in host_picture("a", entries, until).lanes if lane.place is place)


def told(bars: tuple[Bar, ...]) -> list[tuple[str, float, float, bool, bool]]:
    return [(str(bar.kind), bar.begin, bar.end, bar.begin_known, bar.end_known) for bar in bars]


OUTAGE = [
    seen(1),
    move(103, "healthy", "late", 3.4),
    move(108, "late", "at-risk", 8.4),
    freeze(108),
    move(110, "at-risk", "expired", 10.4),
    move(130, "expired", "recovering", 0.1),
    thaw(130.5, 22.5),
    move(131, "recovering", "healthy", 0.2),
]


def without(*places: int) -> list[Entry]:
    return [entry for number, entry in enumerate(OUTAGE) if number not in places]


# -- an outage that is told from its beginning to its end -----------------------------------------------------------


def test_an_outage_has_a_bar_for_each_phase() -> None:
    storage = lane(OUTAGE, Place.STORAGE)
    assert told(storage.bars) == [
        ("silent", 99.6, 103, True, True),
        ("late", 103, 108, True, True),
        ("at-risk", 108, 110, True, True),
        ("expired", 110, 130, True, True),
        ("recovering", 130, 131, True, True),
    ]
    (lease,) = storage.leases
    assert (lease.begin, lease.end, lease.lease, lease.left) == pytest.approx((99.6, 109.6, 10, 0))
    assert told(lane(OUTAGE, Place.VM).bars) == [("frozen", 108, 130.5, True, True)]
    assert [mark.sign for mark in lane(OUTAGE, Place.VM).marks] == [Sign.KEPT]


def test_an_outage_that_is_short_leaves_a_part_of_the_lease() -> None:
    entries = [*OUTAGE[:2], move(105, "late", "healthy", 0.1)]
    (lease,) = lane(entries, Place.STORAGE).leases
    assert (lease.begin, lease.end, lease.left) == pytest.approx((99.6, 105, 0.46))


def test_without_the_line_about_the_lease_none_is_drawn() -> None:
    assert lane(OUTAGE[1:], Place.STORAGE).leases == ()


# -- what has not ended, and what is lacking ------------------------------------------------------------------------


def test_what_has_not_ended_is_so_until_the_last_line_or_until_now() -> None:
    entries = OUTAGE[:5]
    assert told(lane(entries, Place.VM).bars) == [("frozen", 108, 110, True, False)]
    assert told(lane(entries, Place.VM, until=500).bars) == [("frozen", 108, 500, True, False)]
    assert told(lane(entries, Place.STORAGE, until=500).bars)[-1] == ("expired", 110, 500, True, False)


def test_a_thaw_whose_freeze_is_lacking_begins_by_its_own_words() -> None:
    assert told(lane(without(3), Place.VM).bars) == [("frozen", 108, 130.5, False, True)]


def test_a_freeze_whose_thaw_is_lacking_is_unknown_until_the_next_one() -> None:
    entries = [*OUTAGE[:6], freeze(150), thaw(160, 10)]
    assert told(lane(entries, Place.VM).bars) == [
        ("unknown", 108, 150, True, True),
        ("frozen", 150, 160, True, True),
    ]


def test_a_phase_that_is_lacking_makes_the_time_unknown() -> None:
    kinds = [bar[:3] for bar in told(lane(without(4), Place.STORAGE).bars)]
    assert ("unknown", 108, 130) in kinds
    assert not any(kind in ("at-risk", "expired") for kind, *_ in kinds)


def test_a_history_that_begins_in_the_middle_does_not_say_since_when() -> None:
    bars = told(lane(OUTAGE[5:], Place.STORAGE).bars)
    assert bars[0] == ("unknown", 130, 130, False, True)
    assert told(lane(OUTAGE[6:], Place.VM).bars) == [("frozen", 108, 130.5, False, True)]


def test_a_fence_whose_beginning_is_lacking_begins_by_the_words_of_its_steps() -> None:
    steps = [
        line(200.5, "fence.kill", vm="v1", name="web", since_begin="0.500"),
        line(201.0, "fence.done", vm="v1", name="web", since_begin="1.000"),
    ]
    (bar,) = lane(steps, Place.VM).bars
    assert (bar.kind, bar.begin, bar.end, bar.begin_known, bar.end_known) == (Kind.FENCING, 200, 201, False, True)
    assert bar.steps == ((200.5, "kill"), (201.0, "done"))


def test_a_lost_lock_may_be_the_last_one_of_its_mount() -> None:
    """Then the mount is idle without a word; another lock's line says that it was not."""
    lost = line(140, "lock.lost", level="error", vm="v1", mount="/nas", verdict="lost", evidence="EIO")
    entries = [*OUTAGE[:5], lost, line(150, "vm.fence", level="error", vm="v1", need="lost", mount="/nas")]
    assert told(lane(entries, Place.STORAGE).bars)[-1] == ("expired", 110, 140, True, False)
    entries.append(move(160, "expired", "recovering", 0.1))
    assert told(lane(entries, Place.STORAGE).bars)[-2] == ("expired", 110, 160, True, True)


# -- a daemon that begins anew ----------------------------------------------------------------------------------------


def test_what_was_frozen_when_a_daemon_ended_is_unknown_until_it_is_told_again() -> None:
    entries = [*OUTAGE[:5], seen(150), thaw(170, 20)]
    assert told(lane(entries, Place.VM).bars) == [
        ("frozen", 108, 110, True, False),
        ("unknown", 110, 150, False, True),
        ("frozen", 150, 170, False, True),
    ]
    assert ("unknown", 110, 150, False, True) in told(lane(entries, Place.HOST).bars)


def test_what_no_later_daemon_tells_stays_unknown() -> None:
    entries = [*OUTAGE[:5], seen(150), line(160, "mount.probe-kind", mount="/nas")]
    assert told(lane(entries, Place.VM).bars)[-1] == ("unknown", 110, 160, False, False)


def test_a_second_mount_is_no_second_daemon() -> None:
    entries = [seen(1, "/nas"), seen(1.1, "/other"), *OUTAGE[1:]]
    assert told(lane(entries, Place.VM).bars) == [("frozen", 108, 130.5, True, True)]
    assert lane(entries, Place.HOST).bars == ()


# -- decided and not done, ordered and not proven --------------------------------------------------------------------


def test_what_was_only_decided_is_another_bar_than_what_was_done() -> None:
    entries = [
        line(5, "watch.disarmed", reason="x"),
        freeze(10, not_done="disarmed, x"),
        line(20, "watch.armed"),
        freeze(20),
        thaw(30, 10),
    ]
    assert told(lane(entries, Place.VM).bars) == [
        ("would-freeze", 10, 20, True, True),
        ("frozen", 20, 30, True, True),
    ]
    assert told(lane(entries, Place.HOST).bars) == [("disarmed", 5, 20, True, True)]


def test_a_freeze_that_is_not_proven_is_unknown() -> None:
    entries = [freeze(10), line(11, "vm.freeze-failed", level="error", vm="v1"), thaw(30, 20)]
    assert told(lane(entries, Place.VM).bars) == [("unknown", 10, 30, True, True)]


def test_a_sleep_lies_before_the_line_that_tells_of_it() -> None:
    assert told(lane([line(100, "watch.woke-up", gap="47.5")], Place.HOST).bars) == [
        ("asleep", 52.5, 100, True, True)
    ]  # fmt: skip


def ahead(entry: Entry, by: float) -> Entry:
    at = line(entry.boottime, "", ahead=by).at
    return Entry.from_json({**entry.json, "at": at})


# -- clocks ---------------------------------------------------------------------------------------------------------


def test_a_clock_is_known_closer_the_more_lines_there_are() -> None:
    clock = host_clock([line(second / 10, "c") for second in range(0, 50, 3)])
    assert clock is not None
    assert clock.steps == ()
    assert clock.doubt <= 0.06
    assert abs(clock.shift - BASE.timestamp()) <= clock.doubt + 1e-6


@pytest.mark.parametrize("by", [3600.0, -7200.0, 3.0])
def test_a_clock_that_is_set_changes_no_length_and_is_told(by: float) -> None:
    entries = [*OUTAGE[:5], *(ahead(entry, by) for entry in OUTAGE[5:])]
    assert told(lane(entries, Place.VM).bars) == [("frozen", 108, 130.5, True, True)]
    picture = host_picture("a", entries)
    assert picture.clock is not None
    (step,) = picture.clock.steps
    assert (step.after, step.before) == (110, 130)
    assert step.by == pytest.approx(by, abs=1.0)
    text = page.html(album([Source("a", entries)]), "t", 0.0)
    assert "its clock was set by" in text
    chapter = album([Source("a", entries)]).chapters[0]
    frozen = next(bar for lane in chapter.lanes for bar in lane.bars if bar.kind is Kind.FROZEN)
    assert frozen.end == pytest.approx(BASE.timestamp() + 130.5 + by, abs=1.0), "placed by the clock behind the step"


def test_a_slewed_clock_is_no_step() -> None:
    entries = [line(second, "c", ahead=second * 4e-4) for second in range(0, 40000, 60)]
    clock = host_clock(entries)
    assert clock is not None
    assert clock.steps == ()


# -- garbage --------------------------------------------------------------------------------------------------------

CODES = ["mount.seen", "mount.late", "mount.recovering", "vm.freeze", "vm.thaw", "vm.fence", "fence.kill", "vm.gone"]
CODES += ["fence.done", "vm.conflict", "watch.woke-up", "watch.armed", "lock.lost", "start.refused", "x", ""]
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.text(max_size=8), st.floats(), st.integers(), st.sampled_from(["1e999", "nan", "-5", "/nas", "v1"])
)
FIELDS = st.dictionaries(st.sampled_from(["mount", "vm", "name", "uuid", "age", "gap", "since_begin"]), VALUES)
TEXTS = st.sampled_from(
    ["/nas: late => at-risk: x", "thawed after 9.9 s", "lease . s; freeze", "lease 0 s; freeze", "é"]
)
GARBAGE = st.fixed_dictionaries(
    {"code": st.sampled_from(CODES), "boottime": st.one_of(st.floats(0, 1000), VALUES), "text": TEXTS},
    optional={"at": st.one_of(VALUES, st.just("2026-11-20T13:00:00Z")), "fields": FIELDS, "level": VALUES},
)


@settings(max_examples=150, deadline=None)
@given(st.lists(GARBAGE, max_size=12))
def test_garbage_gives_a_page_and_no_error(values: list[dict[str, Any]]) -> None:
    entries = [Entry.from_json(value) for value in values]
    found = album([Source("a", entries), Source("b", entries[::2])])
    page.html(found, "t", 0.0).encode()
    page.svg(found, "t").encode()
