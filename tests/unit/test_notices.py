"""Messages about events: who gets which, what is grouped, what ends what began, when the next attempt is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_strangers_words import WORDS
from vmguard.adapters.messages.queue import Opened, Queue, State
from vmguard.adapters.messages.secret import without
from vmguard.core.notices import pace
from vmguard.core.notices.event import Event, make
from vmguard.core.notices.message import compose
from vmguard.core.notices.pace import Pace
from vmguard.core.notices.wanted import Wish, choose
from vmguard.core.watchdog.events import Level
from vmguard.core.watchdog.trace import CODES

CAUSE = "the server nas has not answered for 8 s"


def event(code: str, name: str = "", level: Level = Level.WARNING, text: str = "", at: str = "09:00:00") -> Event:
    fields = {"vm": f"libvirt-{name}", "name": name} if name else {"mount": "/srv/vm"}
    return make(f"2026-11-28T{at}Z", code, level, text or f"VM '{name}' is frozen: {CAUSE}", fields, "boot")


# -- who gets what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "gets"),
    [
        (Wish(), True),
        (Wish(Level.ERROR), False),
        (Wish(Level.INFO), True),
        (Wish(events=("vm.*",)), True),
        (Wish(events=("vm.fence", "lock.*")), False),
        (Wish(events=("vm?freeze",)), True),
    ],
)
def test_a_target_gets_events_of_its_level_and_list(wish: Wish, gets: bool) -> None:
    chosen, _ = choose("admins", wish, [event("vm.freeze", "web")], ())
    assert bool(chosen) is gets


def test_what_ends_an_incident_is_told_at_any_level_to_whom_its_beginning_was_told() -> None:
    thaw = event("vm.thaw", "web", Level.INFO, "VM 'web' goes on")
    chosen, known = choose("admins", Wish(), [event("vm.freeze", "web")], ())
    assert known == ("frozen:libvirt-web",)
    assert chosen[0].opens == known
    ended, left = choose("admins", Wish(), [thaw], known)
    assert [(found.code, found.ends) for found in ended] == [("vm.thaw", known)]
    assert left == ()
    assert choose("admins", Wish(), [thaw], ()) == ([], ()), "nobody was told that it began"
    other = event("vm.thaw", "db", Level.INFO)
    assert choose("admins", Wish(), [other], known) == ([], known), "another VM's"


def test_a_target_is_not_told_that_it_is_not_told() -> None:
    failed = make("", "notify.failed", Level.WARNING, "x", {"target": "admins"}, "")
    assert choose("admins", Wish(), [failed], ())[0] == []
    assert len(choose("pager", Wish(), [failed], ())[0]) == 1


def test_incidents_that_never_end_do_not_pile_up() -> None:
    many = [event("vm.freeze", f"vm{number}") for number in range(3000)]
    assert len(choose("admins", Wish(), many, ())[1]) == 2000


def test_codes_that_begin_or_end_something_are_codes_of_reports() -> None:
    from vmguard.core.notices import message, wanted

    own = {"daemon.down", "daemon.up", "mount.idle"}
    assert {*wanted._OPENS, *wanted._ENDS} - own <= set(CODES)
    assert {*message._OF_VMS, *message._RANK} - own <= set(CODES)


# -- a message --------------------------------------------------------------------------------------------------------


def test_fifty_frozen_vms_are_one_sentence_with_the_one_cause_and_a_list() -> None:
    made = compose([event("vm.freeze", f"vm{number}") for number in range(50)], "hyp-a")
    assert made.subject == f"[vmguard hyp-a] 50 VMs are frozen: {CAUSE}"
    assert made.text.count(CAUSE) == 1
    assert all(f"vm{number}" in made.text for number in range(50))
    assert len(made.as_json()["events"]) == 50


def test_different_causes_are_told_each() -> None:
    made = compose([event("vm.freeze", "a", text="x: one"), event("vm.freeze", "b", text="x: two")], "hyp-a")
    assert made.subject == "[vmguard hyp-a] 2 VMs are frozen"
    assert "x: one" in made.text
    assert "x: two" in made.text


def test_the_worst_is_the_subject_and_the_rest_is_counted() -> None:
    lost = event("lock.lost", "web", Level.ERROR, "VM 'web': LOST: EIO")
    made = compose([event("mount.late", text="nas is late"), event("vm.freeze", "web"), lost], "hyp-a")
    assert made.subject == "[vmguard hyp-a] VM 'web' LOST a lock: LOST: EIO (+2 more)"
    assert made.level is Level.ERROR
    assert "nas is late" in made.text


def test_a_message_says_whether_it_begins_or_ends_something() -> None:
    begun, known = choose("t", Wish(), [event("vm.freeze", "web")], ())
    assert compose(begun, "h").state == "open"
    ended, _ = choose("t", Wish(), [event("vm.thaw", "web", Level.INFO)], known)
    assert compose(ended, "h").state == "ended"
    assert "over: 1 incident that you were told of" in compose(ended, "h").text
    assert compose([event("start.refused", "web")], "h").state == "event"


def test_its_id_is_that_of_its_events() -> None:
    events = [event("vm.freeze", "web"), event("vm.freeze", "db")]
    assert compose(events, "h").id == compose(events, "h").id
    assert compose(events, "h").id != compose(events[:1], "h").id


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5), WORDS)
def test_no_name_ends_a_line_or_breaks_the_json(names: list[tuple[str, str]], host: str) -> None:
    events = [make("", "vm.freeze", Level.ERROR, text, {"name": name, "vm": name}, "") for name, text in names]
    made = compose(events, host)
    assert made.subject.isprintable()
    assert len(made.subject) <= 170
    assert all(line.isprintable() for line in made.text.split("\n"))
    told = json.loads(json.dumps(made.as_json()).encode())
    assert len(told["events"]) == len(events)
    json.dumps(made.as_json(), ensure_ascii=False).encode()


@given(WORDS, WORDS)
def test_an_event_comes_back_as_it_was(name: str, text: str) -> None:
    made = make("2026", "vm.freeze", Level.ERROR, text, {"name": name}, "b").for_target(("a",), (name,))
    assert Event.from_json(made.as_json()) == made


@pytest.mark.parametrize("garbage", [None, [], {}, {"at": 1}, {"code": "x", "level": "loud"}, "text", 7])
def test_garbage_is_no_event(garbage: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        Event.from_json(garbage)


# -- pace -------------------------------------------------------------------------------------------------------------


def test_a_failing_target_is_tried_less_and_less_often_and_for_ever() -> None:
    known, now, gaps = Pace(), 1000.0, []
    for _ in range(12):
        known = known.tried(now)
        gaps.append(known.due(now) - now)
        now = known.due(now)
    assert gaps[:4] == [5, 10, 20, 40]
    assert gaps[-1] == 300


def test_many_messages_are_slowed_down_to_one_a_minute() -> None:
    known, now, sent = Pace(), 1000.0, []
    while now < 1000 + 3600:
        sent.append(now)
        known = known.tried(now).delivered(now)
        now = known.due(now)
    assert sent[: int(pace.BURST)] == [1000.0] * int(pace.BURST)
    assert len(sent) <= pace.BURST + 60


def test_another_boot_waits_for_no_time_of_the_last_one() -> None:
    failing = Pace().tried(90000.0)
    assert failing.due(10.0) > 90000
    assert failing.after_reboot().due(10.0) == 10.0


# -- the queue --------------------------------------------------------------------------------------------------------


def test_what_is_queued_is_read_in_its_order_by_another_process(tmp_path: Path) -> None:
    Queue(str(tmp_path / "n"), "admins").add([event("vm.freeze", "a")], ("frozen:a",))
    Queue(str(tmp_path / "n"), "admins").add([event("vm.thaw", "a")], ())
    names, events = Queue(str(tmp_path / "n"), "admins").entries()
    assert [found.code for found in events] == ["vm.freeze", "vm.thaw"]
    assert len(names) == 2
    assert (tmp_path / "n/admins").stat().st_mode & 0o777 == 0o700


def test_a_full_queue_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    queue = Queue(str(tmp_path), "admins", (3, 1 << 20))
    dropped = [queue.add([event("vm.freeze", f"a{n}"), event("vm.freeze", f"b{n}")], ()) for n in range(5)]
    assert dropped == [0, 0, 0, 2, 2]
    assert queue.opened() == Opened((), 4)
    assert next(found.vm for found in queue.entries()[1]) == "a2"
    small = Queue(str(tmp_path), "pager", (100, 2000))
    for number in range(20):
        small.add([event("vm.freeze", f"vm{number}", text="x" * 500)], ())
    assert small.waiting() <= 4


def test_what_was_cut_short_by_a_power_failure_keeps_nothing_else_from_being_told(tmp_path: Path) -> None:
    queue = Queue(str(tmp_path), "admins")
    queue.add([event("vm.freeze", "a")], ())
    (tmp_path / "admins/000000000002.json").write_text('{"events": [{"at": "2026')
    (tmp_path / "admins/state.json").write_text("[1]")
    (tmp_path / "admins/opened.json").write_text('{"incidents": 7}')
    assert [found.vm for found in queue.entries()[1]] == ["a"]
    assert queue.state().pace == Pace()
    assert queue.opened() == Opened()


def test_the_state_comes_back_and_a_reboot_makes_all_due(tmp_path: Path) -> None:
    queue = Queue(str(tmp_path), "admins")
    queue.add([event("vm.freeze", "a")], ())
    queue.save(State(pace=Pace().tried(50.0), boot="another boot", problem="refused", sending=("x",)))
    state = queue.state()
    assert (state.problem, state.sending, state.pace.retry_at) == ("refused", ("x",), 0.0)
    queue.save(state)
    assert queue.state() == state


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("535 bad password hunter2hunter2", "535 bad password ***"),
        ("403 no such hook: T0KEN99", "403 no such hook: ***"),
        ("404 not found", "404 not found"),
    ],
)
def test_no_secret_and_no_part_of_a_url_stays_in_an_answer(text: str, shown: str) -> None:
    assert without(text, ["hunter2hunter2", "https://hooks.example.org/T0KEN99"]) == shown
