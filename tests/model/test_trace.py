"""The history that a host writes is one that the machine allows; a changed one is not."""

from __future__ import annotations

import argparse
import copy
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stories.play import load
from tests.support.histories import entry
from tests.support.source_tree import MODULES, ROOT
from vmguard.cli import verify_journal
from vmguard.cli.output import Output
from vmguard.core.reports.status import Status
from vmguard.core.watchdog import trace
from vmguard.core.watchdog.events import Level, Report
from vmguard.errors import BadInput

Line = dict[str, Any]
STORIES = ROOT / "tests/stories"


def history(name: str, host: str = "A") -> list[Line]:
    story = load(STORIES / name)
    story.play()
    return [entry(*line) for line in story.hosts[host].reports]


def fence_lines(second: float, *rungs: str) -> list[Line]:
    return [
        entry(second + number / 10, Report(Level.INFO, f"fence.{rung}", f"VM 'web': fence: {rung}", {"vm": "web"}))
        for number, rung in enumerate(rungs)
    ]


#: an outage that ends well, one that does not, a conflict, maintenance
FROZEN = history("02-storage-reboot-30s")
LOST = history("10-partition-beyond-lease")
LOST += fence_lines(LOST[-1]["boottime"], "copy", "kill", "death", "release", "done")
CONFLICT = history("85-conflict-frozen-then-adopted")
DISARMED = history("46-disarmed")


def place(lines: list[Line], code: str) -> int:
    return next(number for number, line in enumerate(lines) if line["code"] == code)


def without(code: str) -> Callable[[list[Line]], None]:
    return lambda lines: lines.__delitem__(place(lines, code))


def twice(code: str) -> Callable[[list[Line]], None]:
    return lambda lines: lines.insert(place(lines, code), copy.deepcopy(lines[place(lines, code)]))


def swapped(first: str, second: str) -> Callable[[list[Line]], None]:
    """Two lines change their places, and keep the times of these places."""

    def change(lines: list[Line]) -> None:
        here, there = place(lines, first), place(lines, second)
        lines[here], lines[there] = lines[there], lines[here]
        lines[here]["boottime"], lines[there]["boottime"] = lines[there]["boottime"], lines[here]["boottime"]

    return change


def changed(where: str, **values: Any) -> Callable[[list[Line]], None]:
    return lambda lines: lines[place(lines, where)].update(values)


def field(code: str, name: str, value: str) -> Callable[[list[Line]], None]:
    def change(lines: list[Line]) -> None:
        fields = lines[place(lines, code)]["fields"]
        fields.pop(name) if not value else fields.update({name: value})

    return change


def later(code: str) -> Callable[[list[Line]], None]:
    """A line is written at the end of all."""

    def change(lines: list[Line]) -> None:
        line = lines.pop(place(lines, code))
        lines.append({**line, "boottime": lines[-1]["boottime"]})

    return change


def thawed(lines: list[Line]) -> None:
    report = Report(Level.INFO, "vm.thaw", "VM 'web' thawed after 1.0 s: every lock is proven kept", {"vm": "web"})
    lines.append(entry(lines[-1]["boottime"], report))


def thawed_behind(code: str) -> Callable[[list[Line]], None]:
    """A VM is thawed right behind a line."""

    def change(lines: list[Line]) -> None:
        del lines[place(lines, code) + 1 :]
        thawed(lines)

    return change


MUTATIONS: dict[str, tuple[list[Line], Callable[[list[Line]], None]]] = {
    "a freeze is lacking": (FROZEN, without("vm.freeze")),
    "a freeze is there twice": (FROZEN, twice("vm.freeze")),
    "a phase is lacking": (FROZEN, without("mount.recovering")),
    "two phases are swapped": (FROZEN, swapped("mount.at-risk", "mount.recovering")),
    "a phase that its words do not tell": (FROZEN, field("mount.expired", "phase", "healthy")),
    "expired before the lease can have ended": (FROZEN, field("mount.expired", "age", "3.0")),
    "thawed while no server answers": (FROZEN, thawed_behind("mount.expired")),
    "thawed before it was frozen": (FROZEN, swapped("vm.freeze", "vm.thaw")),
    "the mount is never seen": (FROZEN, without("mount.seen")),
    "time runs backwards": (FROZEN, changed("vm.thaw", boottime=1.0)),
    "a time is no number": (FROZEN, changed("vm.thaw", boottime="soon")),
    "another level": (FROZEN, changed("vm.freeze", level="info")),
    "a code that nobody reports": (FROZEN, changed("vm.freeze", code="vm.frozen")),
    "the VM has no name": (FROZEN, field("vm.freeze", "vm", "")),
    "fenced and no lock is lost": (LOST, without("lock.lost")),
    "a loss without evidence": (LOST, field("lock.lost", "evidence", "")),
    "a loss that is kept": (LOST, field("lock.lost", "verdict", "kept")),
    "a fence without its announcement": (LOST, without("vm.fence")),
    "fenced twice": (LOST, twice("vm.fence")),
    "killed behind its release": (LOST, later("fence.kill")),
    "thawed although a lock is lost": (LOST, thawed_behind("lock.lost")),
    "thawed behind its fence": (LOST, thawed_behind("vm.fence")),
    "the fence goes on when it is done": (LOST, twice("fence.done")),
    "adopted without a conflict": (CONFLICT, without("vm.conflict")),
    "thawed and nobody adopted it": (CONFLICT, without("vm.adopted")),
    "done while disarmed": (DISARMED, field("vm.freeze", "not_done", "")),
    "armed twice": (DISARMED, lambda lines: lines.extend([armed(lines), armed(lines)])),
    "not done, though nothing was disarmed": (DISARMED, without("watch.disarmed")),
}


def armed(lines: list[Line]) -> Line:
    return entry(lines[-1]["boottime"], Report(Level.INFO, "watch.armed", "armed again", {}))


@pytest.mark.parametrize("lines", [FROZEN, LOST, CONFLICT, DISARMED])
def test_what_the_machine_wrote_is_allowed(lines: list[Line]) -> None:
    assert trace.faults(lines, whole=True) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_negative_control_a_changed_history_is_found(name: str) -> None:
    lines, change = MUTATIONS[name]
    lines = copy.deepcopy(lines)
    change(lines)
    assert trace.faults(lines, whole=True) != []


@pytest.mark.parametrize("lines", [FROZEN, LOST, CONFLICT, DISARMED])
def test_a_history_may_begin_anywhere(lines: list[Line]) -> None:
    for number in range(len(lines)):
        assert trace.faults(lines[number:]) == []


def test_every_code_that_is_reported_is_known() -> None:
    said = set()
    for name, path in MODULES.items():
        if name.startswith(("vmguard.core.watchdog", "vmguard.daemon")) and not name.endswith(".trace"):
            said |= set(
                re.findall(r'"((?:mount|lock|vm|watch|fence|config|daemon|start|notify)\.[a-z-]+)"', path.read_text())
            )
    assert len(said) > 30
    assert said - {"daemon.lock"} - set(trace.CODES) == set()  # that one is a file


# -- the command ------------------------------------------------------------------------------------------------------


def ran(path: Path, *, as_json: bool = False, own: bool = False) -> tuple[int, str]:
    config = path.parent / "c.yaml"
    config.write_text(f"daemon: {{run_dir: {path.parent}}}\n")
    stream = io.StringIO()
    file = "" if own else str(path)
    args = argparse.Namespace(file=file, json=as_json, config=[str(config)], timeout=None)
    return verify_journal.run(args, Output(stream, as_json=as_json)), stream.getvalue()


def written(path: Path, lines: list[Line]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_good_history_is_ok(tmp_path: Path) -> None:
    path = written(tmp_path / "history.jsonl", LOST)
    for own in (False, True):
        status, text = ran(path, own=own)
        assert (status, text.split(":")[0]) == (0, "OK")


def test_a_changed_history_is_critical_and_says_where(tmp_path: Path) -> None:
    lines = copy.deepcopy(FROZEN)
    vm = lines.pop(place(lines, "vm.freeze"))["fields"]["vm"]
    number = 1 + next(n for n, line in enumerate(lines) if line["code"] == "vm.thaw" and line["fields"]["vm"] == vm)
    path = written(tmp_path / "history.jsonl", lines)
    status, text = ran(path)
    assert status == 2
    assert f"line {number}: vm.thaw: it was running, and not frozen" in text
    status, text = ran(path, as_json=True)
    assert json.loads(text)["faults"] == [{"line": number, "code": "vm.thaw", "text": "it was running, and not frozen"}]


def test_a_host_without_a_history_has_nothing_against_it(tmp_path: Path) -> None:
    assert ran(tmp_path / "history.jsonl", own=True)[0] == 0


def test_a_file_that_is_no_history_is_not_called_good(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0:root:/root:/bin/sh\n")
    with pytest.raises(BadInput, match="no line of a history"):
        ran(path)
    path.write_text("")
    assert ran(path)[0] == Status.OK, "control: nothing has happened there yet"
