"""What a storage server says of itself: read from the probe's document, and what follows from it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.server_documents import client, document, encoded, in_grace, lock
from vmguard.adapters.servers.knfsd import parse
from vmguard.core.servers import epilogue, names, outlook, release
from vmguard.core.servers.facts import ServerFacts, Times
from vmguard.core.servers.release import Signs
from vmguard.core.watchdog.timing import timeline
from vmguard.doctor.catalogue import CHECKS
from vmguard.doctor.finding import Level
from vmguard.doctor.judge_server import judge_pair, judge_server
from vmguard.errors import ServerError


def facts(made: dict[str, Any] | None = None) -> ServerFacts:
    return parse(encoded(document() if made is None else made))


# -- the document -----------------------------------------------------------------------------------------------------


def test_a_server_is_read() -> None:
    found = facts()
    assert (found.up, found.scope, found.times) == (True, "nas", Times(90.0, 90.0, None))
    assert found.grace.holds_up_locks is False
    assert found.grace.left(found.times) == 0.0
    assert found.clients is not None
    assert [(one.host, one.idle, one.minor, one.state) for one in found.clients] == [("hyp-a", 2, 2, "confirmed")]
    assert found.memory is not None
    assert (found.memory.tracker, list(found.memory.recorded)) == ("nfsdcld", ["Linux NFSv4.2 hyp-a"])


def test_a_grace_period_is_read_with_who_is_missing_and_how_long_it_lasts() -> None:
    found = facts(in_grace(["hyp-a", "hyp-b", "hyp-c"], ["hyp-b"]))
    assert found.grace.v4 is True
    assert names.hosts(found.grace.missing) == ["hyp-a", "hyp-c"]
    assert found.grace.left(found.times) == pytest.approx(78.0)


def test_lockd_holds_up_locks_when_nfsv4s_own_grace_is_over() -> None:
    made = document()
    made["files"] |= {
        "versions": "+3 +4 +4.1 +4.2\n",
        "nlm_end_grace": "N\n",
        "nlm_grace_period": "0\n",
        "nlm_timeout": "10\n",
        "nfsv4gracetime": "20\n",
        "nfsv4leasetime": "20\n",
    }
    made["log"].append({"at": 990.0, "text": "NFSD: starting 20-second grace period (net f0000000)"})
    found = facts(made)
    assert found.times == Times(20.0, 20.0, 50.0)
    assert found.times.new_locks_after == 50.0
    assert (found.grace.v4, found.grace.lockd, found.grace.holds_up_locks) == (False, True, True)
    assert found.grace.left(found.times) == pytest.approx(40.0)


@pytest.mark.parametrize(("own", "timeout", "wanted"), [("45", "10", 50.0), ("0", "10", 50.0), ("30", "5", 30.0)])
def test_lockds_grace_period_is_rounded_up_as_the_kernel_does(own: str, timeout: str, wanted: float) -> None:
    made = document()
    made["files"] |= {"versions": "+3 +4\n", "nlm_end_grace": "Y\n", "nlm_grace_period": own, "nlm_timeout": timeout}
    assert facts(made).times.lockd_grace == wanted


def test_without_nfsv3_lockd_counts_for_nothing() -> None:
    made = document()
    made["files"] |= {"nlm_end_grace": "N\n", "nlm_grace_period": "0\n", "nlm_timeout": "10\n"}
    found = facts(made)
    assert found.times.lockd_grace is None
    assert found.grace.holds_up_locks is False


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "nothing"),
        (b"Welcome to nas!\n", "no JSON document; it begins with 'Welcome to nas!"),
        (b"[" * 100_000, "no JSON"),
        (b'{"vmguard_probe": 2}', "not that of this version"),
        (b'{"vmguard_probe": 1, "problem": "no such order"}', "the probe says: no such order"),
        (b'{"vmguard_probe": 1, "files": []}', "files is no dict"),
        (b'{"vmguard_probe": 1, "clients": [7]}', "clients is no list of objects"),
        (b'{"vmguard_probe": 1, "clients": [{"number": 7}]}', "clients.number is no str"),
        (b'{"vmguard_probe": 1, "uptime": true}', "uptime is no number"),
    ],
)
def test_what_is_no_answer_is_an_error_of_ours(data: bytes, says: str) -> None:
    with pytest.raises(ServerError) as refused:
        parse(data)
    assert says in refused.value.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(document())), _JSON))
def test_any_document_is_read_or_refused_in_words(changes: dict[str, Any]) -> None:
    made = {**document(), **changes, "vmguard_probe": 1}
    with contextlib.suppress(ServerError):
        facts(made)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_words(data: bytes) -> None:
    with pytest.raises(ServerError):
        parse(data)


# -- clients and locks ------------------------------------------------------------------------------------------------


def test_the_holder_of_a_file_is_found_by_its_number() -> None:
    found = facts(
        document([client("hyp-a", 3, lock(131, "vm/web.raw")), client("u-1/hyp-b", 4, lock(132, "vm/db.raw"))])
    )
    holder, why = release.holder_of(found, 132, "db.raw")
    assert why == ""
    assert holder is not None
    assert holder.host == "hyp-b"


@pytest.mark.parametrize(
    ("states", "inode", "says"),
    [
        ("", 131, "knows no lock"),
        (lock(131, "vm/web.raw"), 132, "knows no lock"),
        (lock(131, "vm/other.raw"), 131, "another export's file"),
        (lock(131, "/") + lock(131, "/", "62:10"), 131, "several file systems"),
        (lock(131, "vm/web.raw", kind="open"), 131, "knows no lock"),
    ],
)
def test_a_holder_that_is_not_certain_is_none(states: str, inode: int, says: str) -> None:
    holder, why = release.holder_of(facts(document([client("hyp-a", 3, states)])), inode, "web.raw")
    assert holder is None
    assert says in why


def test_two_holders_are_named() -> None:
    both = [client(host, number, lock(131, "vm/web.raw")) for number, host in enumerate(["hyp-b", "hyp-a"], 3)]
    assert "hyp-a, hyp-b" in release.holder_of(facts(document(both)), 131, "web.raw")[1]


def test_after_a_reclaim_a_lock_has_no_name() -> None:
    assert release.holder_of(facts(document([client("hyp-a", 3, lock(131, "/"))])), 131, "web.raw")[0] is not None


def test_names_of_files_cannot_pretend_another_number() -> None:
    hostile = 'x", superblock: "62:00:999", filename: "web.raw'
    found = facts(document([client("hyp-a", 3, lock(131, hostile))]))
    assert [one.inode for one in found.locks] == [131]


def test_a_line_of_a_client_counts_once() -> None:
    made = client("hyp-a")
    made["info"] += 'status: courtesy\nseconds from last renew: 900\nname: "Linux NFSv4.2 hyp-z"\n'
    found = facts(document([made])).clients
    assert found is not None
    assert (found[0].host, found[0].state, found[0].idle) == ("hyp-a", "confirmed", 2)


@pytest.mark.parametrize(
    ("name", "unique", "host", "wanted"),
    [
        ("Linux NFSv4.2 hyp-a", "", "hyp-a", True),
        ("Linux NFSv4.1 hyp-a", "", "hyp-a", True),
        ("Linux NFSv4.2 5c0f/hyp-a", "5c0f", "hyp-a", True),
        ("Linux NFSv4.2 5c0f/hyp-a", "", "hyp-a", False),
        ("Linux NFSv4.2 hyp-a", "5c0f", "hyp-a", False),
        ("FreeBSD hyp-a", "", "hyp-a", False),
    ],
)
def test_a_host_knows_its_own_id(name: str, unique: str, host: str, wanted: bool) -> None:
    assert names.is_of(name, unique, host) is wanted


# -- the doctor -------------------------------------------------------------------------------------------------------


def levels(made: dict[str, Any]) -> dict[str, Level]:
    return {
        found.check: found.level for found in judge_server("nas", facts(made), [131]) if found.level is not Level.OK
    }


def changed(**more: Any) -> dict[str, Any]:
    made = document()
    for key, value in more.items():
        made[key] = {**made[key], **value} if isinstance(value, dict) else value
    return made


LOCKD = {"versions": "+3 +4\n", "nlm_end_grace": "Y\n", "nlm_grace_period": "0\n", "nlm_timeout": "10\n"}


def test_the_doctor_finds_nothing_on_a_good_server() -> None:
    assert levels(document()) == {}


BAD = [
    (changed(files={"threads": "0\n"}), {"server.answers": Level.FAIL}),
    (changed(files={"nfsv4gracetime": "45\n"}), {"server.grace": Level.FAIL}),
    (changed(files={**LOCKD, "nfsv4gracetime": "20\n", "nfsv4leasetime": "20\n"}), {"server.nfs3": Level.WARN}),
    (changed(nfsdcld=False), {"server.tracker": Level.FAIL}),
    (
        changed(log=[{"at": 1, "text": "NFSD: Using legacy client tracking operations."}]),
        {"server.tracker": Level.WARN},
    ),
    (
        changed(nfsdcld=False, log=[], database={"problem": "no such table: grace"}),
        {"server.tracker": Level.WARN, "server.memory": Level.WARN},
    ),
    (changed(database={"filesystem": "tmpfs"}), {"server.memory": Level.FAIL}),
    (changed(database={"problem": "unable to open database file"}), {"server.memory": Level.WARN}),
    (document([client("hyp-a", minor=0)]), {"server.version": Level.WARN}),
    (changed(clients=[client("hyp-a"), client("hyp-b", 4)]), {"server.on-record": Level.FAIL}),
    (changed(clients=[]), {"server.dead-records": Level.WARN}),
    (
        changed(clients=[client("hyp-a", states=lock(131, "web.raw", kind="deleg"))]),
        {"server.delegations": Level.WARN},
    ),
    (changed(files={"etab": "/srv/vm\t*(rw,async)\n"}), {"server.sync": Level.FAIL}),
]


def test_every_check_of_a_server_has_a_bad_state_here() -> None:
    assert {check for _, wanted in BAD for check in wanted} | {"server.partner"} == {
        name for name in CHECKS if name.startswith("server.")
    }


@pytest.mark.parametrize(("made", "wanted"), BAD)
def test_the_doctor_finds_each_fault_and_nothing_else(made: dict[str, Any], wanted: dict[str, Level]) -> None:
    assert levels(made) == wanted


PAIRED = {"etab": "/srv/vm\t*(rw,sync,fsid=1)\n"}


@pytest.mark.parametrize(
    ("other", "level", "says"),
    [
        (changed(files=PAIRED), Level.OK, "one scope"),
        (changed(files=PAIRED, host="nas-b"), Level.FAIL, "scopes nas and nas-b"),
        (changed(files={"etab": "/srv/vm\t*(rw,sync,fsid=2)\n"}), Level.FAIL, "another fsid"),
        (changed(files={**PAIRED, "nfsv4leasetime": "120\n"}), Level.FAIL, "shorter than the lease that nas-b gave"),
    ],
)
def test_both_nodes_of_a_pair_are_compared(other: dict[str, Any], level: Level, says: str) -> None:
    found = judge_pair("nas", facts(changed(files=PAIRED)), "nas-b", facts(other))
    assert (found.check, found.level) == ("server.partner", level)
    assert says in found.text


# -- a reboot ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("down", "frozen"), [(5.0, "no"), (70.0, "perhaps"), (300.0, "yes")])
def test_a_reboots_length_says_who_is_frozen(down: float, frozen: str) -> None:
    look = outlook.of_reboot(timeline(90.0), Times(90.0, 90.0, 50.0), down)
    assert look.frozen == frozen
    assert (look.freeze_from, look.back_by, look.new_locks_at) == (63.0, 63.0, down + 90.0)
    assert look.verdict_from == down < look.verdict_until


def test_lockd_prolongs_what_a_claim_waits() -> None:
    assert outlook.claim_wait(30.0, Times(30.0, 45.0, 50.0), 5.0) == 85.0
    assert outlook.claim_wait(30.0, Times(30.0, 45.0, None), 5.0) == 80.0
    assert outlook.claim_wait(30.0, Times(None, None, None), 5.0) == 65.0


# -- a release --------------------------------------------------------------------------------------------------------

OFF = Signs(typed="hyp-c")


def dead(**more: Any) -> dict[str, Any]:
    made = document([client("hyp-a"), client("hyp-c", 4, lock(131, "vm/web.raw"), idle=200, state="courtesy")])
    for key, value in more.items():
        made[key] = {**made[key], **value}
    return made


def against(made: dict[str, Any], signs: Signs = OFF, me: str = "hyp-a", host: str = "hyp-c") -> list[str]:
    found = facts(made)
    one, why = release.client_of(found, host)
    return release.refusals(found, one, me, signs) if one is not None else [why]


def test_a_dead_host_may_be_released() -> None:
    assert against(dead()) == []
    assert against(dead(), Signs(proof="fence_ipmilan: OFF")) == []


@pytest.mark.parametrize(
    ("made", "signs", "me", "host", "says"),
    [
        (dead(), OFF, "hyp-c", "hyp-c", "is this host"),
        (dead(), Signs(), "hyp-a", "hyp-c", "nobody says that it is off"),
        (dead(), Signs(typed="hyp-b"), "hyp-a", "hyp-c", "the name typed is hyp-b"),
        (dead(), Signs(("it answers a ping",), "hyp-c"), "hyp-a", "hyp-c", "answers a ping"),
        (dead(), OFF, "hyp-a", "hyp-x", "knows no client of host hyp-x; it knows: hyp-a, hyp-c"),
        (dead(), Signs(typed="hyp-a"), "hyp-b", "hyp-a", "renewed its lease 2 s ago"),
        (dead(files={"v4_end_grace": "N\n"}), OFF, "hyp-a", "hyp-c", "in its grace period"),
        (dead(files={"threads": "0\n"}), OFF, "hyp-a", "hyp-c", "does not say that it serves"),
        (dead(files={"nfsv4leasetime": "?"}), OFF, "hyp-a", "hyp-c", "does not tell its lease"),
        (document([client("hyp-c"), client("hyp-c", 4)]), OFF, "hyp-a", "hyp-c", "2 clients call themselves hyp-c"),
        (document([client("hyp-c", idle=200, state="unconfirmed")]), OFF, "hyp-a", "hyp-c", "unconfirmed"),
    ],
)
def test_a_release_is_refused_in_words(made: dict[str, Any], signs: Signs, me: str, host: str, says: str) -> None:
    [reason] = against(made, signs, me, host)
    assert says in reason


def test_a_server_that_tells_no_clients_releases_nobody() -> None:
    made = dead()
    del made["clients"]
    assert against(made) == ["the server does not tell who its clients are"]


# -- why locks were lost ----------------------------------------------------------------------------------------------


def test_the_log_explains_a_server_that_forgot() -> None:
    made = document(log=[{"at": 990.0, "text": "NFSD: no clients to reclaim, skipping NFSv4 grace period (net f0)"}])
    [entry] = epilogue.entries(facts(made), 60.0)
    assert entry.age == pytest.approx(10.0)
    assert "FORGOT" in entry.meaning
    assert epilogue.entries(facts(made), 5.0) == []


def test_facts_are_values() -> None:
    assert facts() == facts()
    assert json.dumps(dataclasses.asdict(facts()))
