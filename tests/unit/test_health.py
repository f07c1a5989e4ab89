"""The health line: the worst first, what to do now, and VMs that were killed lately. Pure."""

from __future__ import annotations

import datetime
import time
from dataclasses import replace

import pytest

from vmguard.core.reports.fenced_vms import SHOWN_FOR_S, FencedVm, lately
from vmguard.core.reports.health import Finding, HostState, Maintenance, MountState, VmState, health, of_findings
from vmguard.core.reports.local_time import after, local_time
from vmguard.core.reports.status import Status, worst

NOW = datetime.datetime(2026, 11, 20, 17, 44, tzinfo=datetime.UTC)
AT = "2026-11-20T17:43:34Z"
WEB = VmState("web", "running", "u-web", mounts=("/srv/vm",))
ICE = WEB._replace(name="ice", uuid="u-ice", frozen=True, since=AT)
NAS = MountState("/srv/vm", "10.77.0.11:/vm", "healthy", 0.4, 7.6)
SILENT = NAS._replace(phase="expired", age=19.2, freeze_in=0.0)
KILLED = FencedVm("2026-11-20T15:06:11Z", "db", "u-db")
WELL = HostState([WEB], [NAS])

LINES = {
    "nothing": (HostState(), "OK: this host guards no VM", ""),
    "well": (WELL, "OK: guarding 1 VM", ""),
    "coming in": (HostState([WEB._replace(incoming="hyp-b")]), "OK: guarding 1 VM, 1 of them coming in from hyp-b", ""),
    "two frozen": (
        HostState([ICE, ICE._replace(name="web", since="2026-11-20T17:43:36Z")], [SILENT]),
        "CRITICAL: 2 VMs (ice, web) frozen since 17:43:34 UTC, 10.77.0.11 silent for 19 s",
        "nothing on this host; get 10.77.0.11 up. They go on by themselves.",
    ),
    "one frozen": (
        HostState([ICE], [SILENT]),
        "CRITICAL: VM 'ice' frozen since 17:43:34 UTC, 10.77.0.11 silent for 19 s",
        "nothing on this host; get 10.77.0.11 up. It goes on by itself.",
    ),
    "thawing": (
        HostState([ICE], [NAS._replace(phase="recovering")]),
        "CRITICAL: VM 'ice' frozen since 17:43:34 UTC, 10.77.0.11 answers again, each lock is being asked",
        "nothing. It goes on by itself once the locks are proven.",
    ),
    "frozen, its server answers": (
        HostState([ICE._replace(why="its lock is lost")], [NAS]),
        "CRITICAL: VM 'ice' frozen since 17:43:34 UTC: its lock is lost",
        "vmguard check ice",
    ),
    "conflict": (
        HostState([ICE._replace(state="conflict")]),
        "CRITICAL: VM 'ice' in conflict, frozen since 17:43:34 UTC: another host has a disk that it writes to",
        "end one of the two, then: vmguard adopt ice",
    ),
    "nobody let it go on": (
        HostState([ICE._replace(held=True)]),
        "CRITICAL: VM 'ice' frozen since 17:43:34 UTC over a conflict that has ended",
        "look at its disks; vmguard adopt ice lets it go on, or end it",
    ),
    "fencing": (
        HostState([ICE._replace(fencing=True)], [SILENT]),
        "CRITICAL: VM 'ice' is being killed (fenced)",
        "wait for its end, start it nowhere until then: vmguard history",
    ),
    "fenced": (
        replace(WELL, fenced=[KILLED]),
        "CRITICAL: VM 'db' killed (fenced) at 15:06:11 UTC",
        "vmguard history says why; vmguard history --acknowledge, once it is settled",
    ),
    "fenced, and runs again": (
        replace(WELL, fenced=[FencedVm(AT, "web", "u-web")]),
        "WARNING: VM 'web' killed (fenced) at 17:43:34 UTC, running again",
        "vmguard history says why; vmguard history --acknowledge, once it is settled",
    ),
    "late": (
        replace(WELL, mounts=[NAS._replace(phase="late", age=4.2, freeze_in=3.8)]),
        "WARNING: 10.77.0.11 silent for 4 s; its VMs are frozen in 4 s if it stays so",
        "look after 10.77.0.11",
    ),
    "silent, and nothing is done": (
        replace(WELL, mounts=[SILENT]),
        "CRITICAL: 10.77.0.11 silent for 19 s: another host may get the locks, and no VM is frozen",
        "get 10.77.0.11 up",
    ),
    "maintenance": (
        replace(WELL, maintenance=Maintenance(600, "disks\nmove", "eva")),
        "WARNING: maintenance until 17:54:00 UTC, no VM is frozen or fenced (disks\\nmove, by eva)",
        "vmguard arm, once it is over",
    ),
    "configuration": (
        replace(WELL, config_broken=True),
        "WARNING: the configuration has a mistake, the last good one is in force",
        "vmguard config check",
    ),
    "daemon down": (
        replace(WELL, daemon_problem="the vmguard daemon does not run"),
        "CRITICAL: the vmguard daemon does not run: VM 'web' keeps its locks, and nobody watches the leases",
        "systemctl start vmguard",
    ),
    "daemon down, nothing guarded": (
        HostState(daemon_problem="the vmguard daemon does not run"),
        "WARNING: the vmguard daemon does not run",
        "systemctl start vmguard",
    ),
    "frozen, and no daemon": (
        HostState([ICE], daemon_problem="the vmguard daemon does not run"),
        "CRITICAL: VM 'ice' frozen since 17:43:34 UTC, and no daemon is there to let it go on; "
        "the vmguard daemon does not run: VM 'ice' keeps its locks, and nobody watches the leases",
        "systemctl start vmguard",
    ),
    "image gone": (
        HostState([WEB._replace(replaced=True)]),
        "CRITICAL: VM 'web' runs on a file that is not the disk at its path any more",
        "end the VM here if its disk was replaced on purpose; else move the old file back while it runs",
    ),
    "unguarded": (
        HostState([WEB._replace(unlocked=True)]),
        "CRITICAL: VM 'web' UNGUARDED: a disk has no lock",
        "vmguard adopt web locks it again, or says who has it",
    ),
    "held": (
        HostState([WEB._replace(beside="QEMU locks nothing")]),
        "WARNING: VM 'web' locked beside QEMU only (QEMU locks nothing)",
        "vmguard check web",
    ),
}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(("state", "line", "todo"), LINES.values(), ids=LINES)
def test_each_state_has_its_line_and_what_to_do_now(state: HostState, line: str, todo: str) -> None:
    found = health(state, NOW)
    assert (found.line, found.do_now) == (line, todo)


def test_the_worst_comes_first_and_the_rest_is_there() -> None:
    state = HostState([WEB, ICE], [SILENT], [KILLED], Maintenance(60, "x", "y"), config_broken=True)
    found = health(state, NOW)
    assert found.severity is Status.CRITICAL
    assert found.headline.startswith("VM 'ice' frozen since")
    assert "VM 'db' killed" in found.headline
    assert found.headline.index("maintenance until") > found.headline.index("killed")
    assert "the configuration has a mistake" in found.headline


def test_many_are_counted_and_few_are_named() -> None:
    assert health(HostState([ICE] * 4, [SILENT]), NOW).headline.startswith("4 VMs frozen since")


def test_a_line_that_is_kept_has_points_in_time() -> None:
    assert "10.77.0.11 silent since 17:43:40 UTC" in health(HostState([ICE], [SILENT]), NOW, kept=True).headline
    late = replace(WELL, mounts=[NAS._replace(phase="late", age=4.0, freeze_in=4.0)])
    assert "are frozen at 17:44:04 UTC if it stays so" in health(late, NOW, kept=True).headline


def test_one_vm_has_a_line_of_its_own() -> None:
    state = HostState([WEB, ICE._replace(mounts=("/other",))], [NAS, SILENT._replace(name="/other")], [KILLED])
    assert health(state.only(["u-web"]), NOW).line == "OK: guarding 1 VM"
    assert health(state.only(["u-db"]), NOW).headline.startswith("VM 'db' killed")


def test_hostile_names_stay_on_the_line_and_have_an_end() -> None:
    found = health(HostState([WEB._replace(name="x\n" * 300, unlocked=True)]), NOW)
    assert "\n" not in found.line
    assert len(found.line) < 200


def test_the_worst_of_several() -> None:
    assert worst([Status.OK, Status.UNKNOWN, Status.WARNING]) is Status.UNKNOWN
    assert worst([Status.UNKNOWN, Status.CRITICAL]) is Status.CRITICAL
    assert of_findings([Finding(Status.UNKNOWN, "a"), Finding(Status.CRITICAL, "b", "c")], "").line == "CRITICAL: b; a"


def test_times_are_this_hosts_own_with_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    assert local_time(AT, NOW) == "18:43:34 CET"
    assert local_time("2026-11-19T23:30:00Z", NOW) == "00:30:00 CET"
    assert local_time("2026-11-19T12:30:00Z", NOW) == "2026-11-19 13:30:00 CET"
    assert local_time(AT) == "2026-11-20 18:43:34 CET"
    assert local_time("?", NOW) == "?"
    assert after(NOW, 90.5) == "2026-11-20T17:45:30Z"


def entry(boottime: object, code: str = "fence.done", fields: object = None) -> dict[str, object]:
    fields = {"name": "db", "uuid": "u"} if fields is None else fields
    return {"at": "then", "boottime": boottime, "code": code, "fields": fields}


def test_a_kill_is_shown_for_a_day_or_until_it_is_acknowledged() -> None:
    assert lately([entry(100.0)], 200.0, 0.0) == [FencedVm("then", "db", "u")]
    assert lately([entry(100.0)], 100.0 + SHOWN_FOR_S, 0.0) == []
    assert lately([entry(100.0)], 200.0, 150.0) == []
    assert lately([entry(100.0), entry(160.0)], 200.0, 150.0) == [FencedVm("then", "db", "u")]


@pytest.mark.parametrize("bad", [entry("x"), entry(100.0, fields=[]), {}, entry(100.0, "vm.fence")])
def test_what_is_no_kill_is_none(bad: dict[str, object]) -> None:
    assert lately([bad], 200.0, 0.0) == []
