"""One table: the states that a host can be in, and the places where people read of them. They agree.

Each state is brought about by the daemon's own parts in simulated time (tests/support/told_host.py). A cell is what one
place says of one state: it has the severity of that state, the word for it, and the same next step as everywhere else.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.guard import REPOSITORY
from tests.support.told_host import SERVER, UUID, Said, ToldHost
from vmguard.core.locks.claim_states import State
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.pin.lock_transfer import RivalLock

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about what root sees, and others not")

NOBODY = 65534
OK, WARNING, CRITICAL, UNKNOWN = range(4)
NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
RULES = (REPOSITORY / "packaging" / "prometheus" / "vmguard.rules.yaml").read_text()


def frozen(host: ToldHost) -> None:
    host.vm()
    host.pass_by(2)
    host.server = None
    host.pass_by(12)


def thawing(host: ToldHost) -> None:
    frozen(host)
    host.answer("EACCES")  # it answers, but not for this lock
    host.pass_by(3)


def disarmed(host: ToldHost) -> None:
    host.vm()
    host.pass_by(1)
    host.parts.maintenance.disarm(600, "disks move", "eva")


def fencing(host: ToldHost) -> None:
    host.vm()
    host.pass_by(1)
    host.dies, host.server = False, "EIO"
    host.pass_by(5)


def fenced_an_hour_ago(host: ToldHost) -> None:
    about = {"vm": f"libvirt-{UUID}", "name": "web", "uuid": UUID}
    host.parts.report(Report(Level.ERROR, "fence.done", "VM 'web': fence: it is dead and drained", about))
    host.pass_by(0.1)
    host.age(3600)


def daemon_down(host: ToldHost) -> None:
    host.vm()
    host.pass_by(1)
    host.stop()


def image_gone(host: ToldHost) -> None:
    vm = host.vm()
    host.pass_by(1)
    other = host.folder / "other.raw"
    other.write_bytes(bytes(8192))
    os.rename(other, host.disk)
    host.parts.replaced_disks.look()
    host.until(lambda: vm.files[0].replaced)


def conflict(host: ToldHost) -> None:
    vm = host.vm()
    host.pass_by(1)
    host.parts.conflicts.meet(vm, vm.files[0], RivalLock(exclusive=True))
    host.pass_by(1)


def held(host: ToldHost) -> None:
    vm = host.vm()
    vm.files[0].guard.not_pinned("the kernel forbids to look into QEMU", 60.0)
    host.pass_by(1)


def unguarded(host: ToldHost) -> None:
    host.vm_without_its_lock()
    host.pass_by(1)


def storage_silent(host: ToldHost) -> None:
    host.vm()
    host.pass_by(2)
    host.server = None
    host.pass_by(5.5)


def running(host: ToldHost) -> None:
    host.vm()
    host.pass_by(2)


@dataclass(frozen=True)
class Row:
    """A state: how it comes about, its severity, the word for it everywhere, a line of the metrics, and of the journal.

    ``severity_of_vm``: of the VM alone, where that is another one.
    """

    make: Callable[[ToldHost], object]
    severity: int
    word: str
    metric: str
    journal: str = ""
    problems: tuple[str, ...] = ()
    user: int = 0


ROWS = {
    "running": Row(running, OK, "guard", 'vmguard_vms{state="running"} 1'),
    "frozen": Row(frozen, CRITICAL, f"frozen since .*{SERVER} silent", "vmguard_vm_frozen{.*} 1", "is frozen"),
    "thawing": Row(thawing, CRITICAL, f"frozen since .*{SERVER} answers again", "vmguard_vm_frozen{.*} 1", "is frozen"),
    "disarmed": Row(
        disarmed,
        WARNING,
        "maintenance until",
        "vmguard_disarmed_until_timestamp_seconds [1-9]",
        "maintenance for 600 s",
    ),
    "fencing": Row(fencing, CRITICAL, r"being killed \(fenced\)", "vmguard_vm_fencing{.*} 1", r"fenced \(killed\)"),
    "fenced an hour ago": Row(
        fenced_an_hour_ago, CRITICAL, r"'web' killed \(fenced\) at", "vmguard_fenced_lately 1", "fence: it is dead"
    ),
    "daemon down": Row(daemon_down, CRITICAL, "daemon does not run", "vmguard_up 0"),
    "configuration broken": Row(
        running, WARNING, "configuration has a mistake", "vmguard_config_valid 0", problems=("vmguard.yaml:3: lesae",)
    ),
    "not root": Row(running, UNKNOWN, "root|sudo", "root", user=NOBODY),
    "storage silent": Row(
        storage_silent, WARNING, f"{SERVER} silent", 'vmguard_mount_phase{.*"late"} 1', "no request of the last"
    ),
    "image gone": Row(
        image_gone, CRITICAL, "not the disk at its path any more", "vmguard_severity 2", "is another file now"
    ),
    "conflict": Row(conflict, CRITICAL, "in conflict, frozen since", "vmguard_vm_frozen{.*} 1", "is frozen"),
    "incoming": Row(
        lambda host: host.vm(State.INCOMING, "hyp-b"), OK, "coming? ?in from hyp-b|incoming from hyp-b", "vmguard_vms{"
    ),
    "held": Row(held, WARNING, "locked beside QEMU only", 'vmguard_vm_files{.*guard="held"} 1'),
    "unguarded": Row(unguarded, CRITICAL, "UNGUARDED", 'vmguard_vm_files{.*guard="lost"} 1'),
}

COMMANDS = {
    "alone": [],
    "check": ["check", "web"],
    "status": ["status"],
    "who": ["who", "{disk}"],
    "history": ["history"],
    "doctor": ["doctor", "--no-proof"],
    "timing": ["timing"],
    "metrics": ["metrics"],
    "check json": ["check", "web", "--json"],
    "status json": ["status", "--json"],
    "history json": ["history", "--json"],
}
#: they know the VM alone, and say nothing of one that is gone and whose disk nobody has
_ABOUT_A_VM = ("check", "who", "check json")
#: they were not asked how the host is
_TELL = ("history", "timing")
#: what changes while one looks: ages and times of day
_PASSING = re.compile(r"\d+(:\d\d)*( s\b|:\d\d| [A-Z]{3,4}\b)|since|for|until|frozen (in|at)")


@pytest.fixture(params=ROWS, scope="module")
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    row = ROWS[request.param]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # not root gets as far as to what is root's
        host = ToldHost(Path(folder), patch, row.problems)
        try:
            row.make(host)
            yield Told(request.param, row, host)
        finally:
            host.end()


class Told:
    """A state, and what every place says of it."""

    def __init__(self, name: str, row: Row, host: ToldHost) -> None:
        self.name = name
        self.row = row
        words = {
            place: [word.format(disk=host.disk) for word in given]
            for place, given in COMMANDS.items()
            if name != "fenced an hour ago" or place not in _ABOUT_A_VM
        }
        self.said = {place: host.say(given, row.user) for place, given in words.items()}
        self.unit_line = host.parts.unit_status.line()
        self.journal = host.journal()

    def __getitem__(self, place: str) -> Said:
        return self.said[place]

    def knows(self, place: str) -> bool:
        """Return whether a place has a word for the state: nobody knows a VM that has been gone for an hour."""
        return place in self.said


@pytest.mark.parametrize("place", ["alone", "check", "status", "who", "history", "doctor", "timing"])
def test_a_command_begins_with_the_severity_and_the_word_and_exits_with_it_if_it_judges(told: Told, place: str) -> None:
    if not told.knows(place):
        return
    said, row = told[place], told.row
    assert re.search(row.word, said.err if row.user else said.first), said
    if row.user:
        assert said.status == UNKNOWN
        assert "guards no VM" not in said.out
        return
    assert said.first.startswith(f"{NAMES[row.severity]}: "), said
    if place in _TELL:
        assert said.status == OK
        return
    if place != "doctor":  # which finds more on the host that the tests run on
        assert said.status == row.severity
    assert said.status >= row.severity or said.status == CRITICAL


@pytest.mark.parametrize("place", ["alone", "check", "status", "who", "history", "timing"])
def test_a_command_ends_with_what_to_do_now_the_same_everywhere(told: Told, place: str) -> None:
    if not told.knows(place):
        return
    said = told[place]
    lines = (said.out + said.err).splitlines()
    if told.row.severity == OK:
        assert not any(line.startswith("do now:") for line in lines)
        return
    todo = next(line for line in reversed(lines) if line.startswith("do now:"))
    assert todo == next(line for line in reversed(told["status"].out.splitlines() or lines) if "do now:" in line)
    if not told.row.user:
        assert said.out.splitlines()[-1] == todo


def test_the_line_is_the_same_everywhere_but_for_the_time(told: Told) -> None:
    if told.row.user:
        assert "vmguard: " in told["status"].err, "there is no line, but an error"
        return
    lines = {place: _PASSING.sub("", told[place].first) for place in ("alone", "status", "history", "timing", "doctor")}
    unit = _PASSING.sub("", told.unit_line.partition(". Do now: ")[0])
    assert set(lines.values()) == ({unit} if told.name != "daemon down" else {lines["status"]})


@pytest.mark.parametrize("place", ["check json", "status json", "history json"])
def test_json_has_the_same(told: Told, place: str) -> None:
    if not told.knows(place):
        return
    said, row = json.loads(told[place].out), told.row
    if row.user:
        assert said["error"]["exit_code"] == UNKNOWN
        return
    people = told[place.removesuffix(" json")]
    assert said["health"]["severity"] == NAMES[row.severity]
    assert re.search(row.word, said["health"]["headline"])
    assert _PASSING.sub("", f"{NAMES[row.severity]}: {said['health']['headline']}") == _PASSING.sub("", people.first)
    assert bool(said["health"]["do_now"]) == (row.severity != OK)


def test_systemctl_status_has_the_same(told: Told) -> None:
    if told.name in ("daemon down", "not root"):
        return  # systemd says so by itself, or does not know who asks
    assert told.unit_line.startswith(f"{NAMES[told.row.severity]}: ")
    assert re.search(told.row.word, told.unit_line)
    assert ("Do now: " in told.unit_line) == (told.row.severity != OK)


def test_the_journal_has_what_happened(told: Told) -> None:
    assert re.search(told.row.journal, told.journal)


def test_metrics_and_alerts_know_it(told: Told) -> None:
    said, row = told["metrics"], told.row
    assert re.search(row.metric, said.out + said.err), said
    if row.user:
        assert said.status == UNKNOWN
        return
    assert f"vmguard_severity {row.severity}\n" in said.out
    name = row.metric.split("{")[0].split()[0]
    assert name in RULES or row.severity == OK or name in ("vmguard_severity", "vmguard_mount_phase")


SEARCHED = (REPOSITORY / "packaging" / "docs" / "troubleshooting.md").read_text()
QUOTED = [
    ".*?".join(map(re.escape, words.split("…"))) for words in re.findall(r"^(?:\* +)?> (.+)$", SEARCHED, re.MULTILINE)
]


def test_what_is_told_is_found_in_the_troubleshooting(told: Told) -> None:
    if told.row.severity != OK and not told.row.user:
        assert [words for words in QUOTED if re.search(words, told["status"].first)]


def test_negative_control_what_is_well_is_found_in_no_symptom() -> None:
    assert not [words for words in QUOTED if re.search(words, "OK: guarding 3 VMs")]


def test_a_frozen_vm_is_running_to_its_hypervisor_and_that_is_said(told: Told) -> None:
    for place in ("check", "status"):
        said = told.said.get(place)
        is_frozen = told.name in ("frozen", "thawing", "conflict")
        assert ("virsh suspend" in said.out if said is not None else is_frozen) == is_frozen or told.name == "fencing"


def test_negative_control_a_state_that_is_not_made_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = ToldHost(tmp_path, monkeypatch)
    try:
        running(host)
        said = host.say(["status"])
    finally:
        host.end()
    assert said.status == OK
    for name, row in ROWS.items():
        if row.severity != OK:
            assert not re.search(row.word, said.first), name
