"""What happened, for people: the file, `vmguard history`, `vmguard timing`, the journal, the admin's command."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from vmguard.adapters.linux.journal import FIELDS, JournalHandler
from vmguard.cli import history as command
from vmguard.cli import timing
from vmguard.cli.output import Output
from vmguard.core.pictures.entry import Entry, incidents, kind_of
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.watchdog.timing import timeline
from vmguard.daemon.report.history import FILE, History, read
from vmguard.daemon.report.notify_command import Notifier, Wanted, environment

FENCE = Report(
    Level.ERROR, "vm.fence", "VM 'web' is fenced", {"vm": "libvirt-1", "mount": "/srv/vm", "evidence": "EIO"}
)


def entry(second: float, code: str, text: str = "", **fields: str) -> dict[str, Any]:
    return {"at": "2026-11-20T13:00:00Z", "boottime": second, "level": "info", "code": code, "text": text or code,
            "fields": fields}  # fmt: skip


# -- the file -------------------------------------------------------------------------------------------------------


def test_what_is_added_is_read_in_its_order(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    for number in range(3):
        history.add(Report(Level.INFO, f"c{number}", f"text {number}"), {"n": str(number)})
    assert [(line["code"], line["fields"]) for line in read(str(tmp_path))] == [
        (f"c{n}", {"n": str(n)}) for n in range(3)
    ]


def test_the_file_stays_small_and_keeps_the_newest(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    for number in range(4000):
        history.add(Report(Level.INFO, "c", "x" * 1000), {"n": str(number)})
    assert (tmp_path / FILE).stat().st_size < 2.1 * 1024 * 1024
    assert read(str(tmp_path))[-1]["fields"] == {"n": "3999"}


@pytest.mark.parametrize("garbage", [b"", b"{\n", b"[1]\nnull\n\xff\xfe\n", b'{"code": "a"}\n{"cut'])
def test_garbage_in_the_file_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / FILE).write_bytes(garbage)
    assert all(isinstance(line, dict) for line in read(str(tmp_path)))


def test_a_directory_that_takes_nothing_harms_nobody() -> None:
    History("/proc/nowhere").add(FENCE, {})


# -- vmguard history ------------------------------------------------------------------------------------------------


def shown(tmp_path: Path, entries: list[dict[str, Any]], *words: str) -> str:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    (run_dir / FILE).write_text("".join(json.dumps(line) + "\n" for line in entries))
    (tmp_path / "c.yaml").write_text(f"daemon: {{run_dir: {run_dir}}}\n")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(words)
    args.config, args.json, args.timeout = [str(tmp_path / "c.yaml")], False, None
    stream = io.StringIO()
    assert command.run(args, Output(stream)) == 0  # no daemon runs there, and it was not asked for that
    first, empty, *lines = stream.getvalue().splitlines()
    assert (first, empty) == ("WARNING: the vmguard daemon does not run", "")
    assert lines.pop() == "do now: systemctl start vmguard"
    return "\n".join(lines)


def test_incidents_are_told_apart_and_counted_from_their_beginning(tmp_path: Path) -> None:
    text = shown(tmp_path, [entry(10, "a"), entry(12.5, "b"), entry(12.5, "b"), entry(500, "c")])
    assert text.splitlines() == [
        "2026-11-20 13:00:00 UTC, 2.5 s",
        "     +0.00 s    a",
        "     +2.50 s    b (2 times)",
        "",
        "2026-11-20 13:00:00 UTC, 0.0 s",
        "     +0.00 s    c",
    ]


def test_a_wall_clock_that_jumps_by_days_changes_neither_order_nor_lengths(tmp_path: Path) -> None:
    entries = [
        {**entry(10, "a"), "at": "2026-11-20T13:00:00Z"},
        {**entry(11, "b"), "at": "2026-11-01T02:00:00Z"},
        {**entry(12, "c"), "at": "2031-01-01T00:00:00Z"},
    ]
    assert shown(tmp_path, entries).splitlines() == [
        "2026-11-20 13:00:00 UTC, 2.0 s",
        "     +0.00 s    a",
        "     +1.00 s    b",
        "     +2.00 s    c",
    ]


def test_a_vms_history_has_its_mounts_and_not_the_other_vms(tmp_path: Path) -> None:
    entries = [
        entry(1, "mount.late", "nas late", mount="/nas"),
        entry(1, "mount.late", "other late", mount="/other"),
        entry(2, "vm.freeze", "web frozen", vm="libvirt-1", name="web", mount="/nas"),
        entry(2, "vm.freeze", "db frozen", vm="libvirt-2", name="db", mount="/other"),
        entry(900, "vm.freeze", "db frozen again", vm="libvirt-2", name="db", mount="/other"),
    ]
    text = shown(tmp_path, entries, "web")
    assert "nas late" in text
    assert "web frozen" in text
    assert "other late" not in text
    assert "db" not in text
    assert "nothing since the last boot about VM 'nobody'" in shown(tmp_path, entries, "nobody")


@pytest.mark.parametrize("lease", [10, 15, 30, 45, 90, 300, 3600])
def test_the_timeline_is_drawn_in_80_columns(lease: int) -> None:
    stream = io.StringIO()
    timing._draw("/srv/vm", timeline(lease), Output(stream))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    drawn = timing.bar(timeline(lease))
    assert "".join(sorted(set(drawn), key=drawn.index)) == ".-#!"
    assert list(drawn) == sorted(drawn, key=".-#!".index)


# -- journal and stderr ---------------------------------------------------------------------------------------------


def record(text: str, **fields: str) -> logging.LogRecord:
    made = logging.LogRecord("vmguard", logging.WARNING, "", 0, text, (), None)
    setattr(made, FIELDS, fields)
    return made


def test_the_journal_gets_the_fields_in_its_own_protocol(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        handler = JournalHandler(str(tmp_path / "socket"), native=True)
        handler.emit(record("hello", event="vm.freeze", evidence="two\nlines"))
        data = journal.recv(65536)
    assert b"MESSAGE=hello\nPRIORITY=4\nSYSLOG_IDENTIFIER=vmguard\nVMGUARD_EVENT=vm.freeze\n" in data
    assert b"VMGUARD_EVIDENCE\n" + (9).to_bytes(8, "little") + b"two\nlines\n" in data


def test_without_a_journal_the_line_goes_to_stderr(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    JournalHandler(str(tmp_path / "none"), write_end, native=True).emit(record("hello"))
    assert os.read(read_end, 100) == b"WARNING hello\n"


def test_a_reader_that_hangs_holds_nobody_up_and_is_told_what_it_missed(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:  # nobody reads from it
        journal.bind(str(tmp_path / "socket"))
        handler = JournalHandler(str(tmp_path / "socket"), write_end, native=True)
        began = time.monotonic()
        for _ in range(2000):
            handler.emit(record("x" * 3000))
        assert time.monotonic() - began < 2
    assert handler.dropped > 0
    while len(os.read(read_end, 65536)) == 65536:
        pass
    handler.emit(record("hello"))
    assert b"lines were dropped" in os.read(read_end, 65536)


# -- one way out ----------------------------------------------------------------------------------------------------


def test_small_events_are_not_told_when_they_are_not_wanted(tmp_path: Path) -> None:
    notifier = Notifier(lambda: Wanted(f"touch {tmp_path}/told", level=Level.WARNING))
    notifier.tell(Report(Level.INFO, "c", "small"), {})
    time.sleep(0.2)
    assert not (tmp_path / "told").exists()


def test_no_value_from_outside_ends_a_variable() -> None:
    assert environment(FENCE, {"disk": "/a\0b"})["VMGUARD_DISK"] == "/a\\x00b"


# -- a lock that the server has forgotten ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "is_told"),
    [("EIO through its own descriptor, twice", True), ("claimed since by hyp-b: epoch 3, ours is 2", False)],
)
def test_a_forgotten_lock_is_explained_with_its_cure(tmp_path: Path, evidence: str, is_told: bool) -> None:
    """As after an export that came later than nfsd itself: nobody has the disk, and a restart is safe."""
    History(str(tmp_path)).add(Report(Level.ERROR, "lock.lost", "LOST", {}), {"evidence": evidence})
    entries = [Entry.from_json(value) for value in read(str(tmp_path))]
    stream = io.StringIO()
    command._print(entries, Output(stream))
    said = stream.getvalue()
    assert ("RequiresMountsFor=" in said) == is_told
    assert ("after_fence: restart" in said) == is_told


# -- what kind of outage it was -------------------------------------------------------------------------------------


def outage(*codes: str, begin: float = 0.0) -> list[Entry]:
    return [Entry.from_json(entry(begin + number, code, mount="/srv/vm")) for number, code in enumerate(codes)]


CUT = ("mount.late", "mount.at-risk", "vm.freeze", "mount.recovering", "vm.thaw", "mount.healthy")
REBOOT = ("mount.late", "mount.at-risk", "mount.new-session", "mount.recovering", "vm.thaw", "mount.healthy")


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (CUT, "the way to the storage was cut"),
        (REBOOT, "the storage was restarted"),
        ((*REBOOT[:4], "lock.lost", "vm.fence"), "a lock was lost"),
        (CUT[:3], ""),
        (("vm.conflict", "vm.freeze"), ""),
    ],
)
def test_a_cut_and_a_restart_are_told_apart(codes: tuple[str, ...], kind: str) -> None:
    found = kind_of(outage(*codes))
    assert found.startswith(kind) if kind != "a lock was lost" else found.endswith(kind)
    assert bool(found) == bool(kind)


def test_a_restart_right_after_a_cut_is_an_incident_of_its_own() -> None:
    found = incidents(outage(*CUT) + outage(*REBOOT, begin=20.0))
    assert [kind_of(incident)[:17] for incident in found] == ["the way to the st", "the storage was r"]
    assert len(incidents(outage(*CUT[:4]) + outage(*REBOOT, begin=20.0))) == 1, "the first is not over"
