"""The admin's command that is told of events (notify.command): it runs, it is killed when it hangs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from tests.support.guard import eventually
from tests.unit.test_watch_driver import no_threads
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.report.history import History, Reporter, read
from vmguard.daemon.report.notify_command import Notifier, Wanted

FENCE = Report(
    Level.ERROR, "vm.fence", "VM 'web' is fenced", {"vm": "libvirt-1", "mount": "/srv/vm", "evidence": "EIO"}
)


def test_a_report_goes_everywhere_once_with_the_vms_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(lambda: Wanted(f"echo $VMGUARD_EVENT $VMGUARD_VM $VMGUARD_EVIDENCE >> {tmp_path}/told"))
    reporter = Reporter(History(str(tmp_path)), notifier, lambda vm: {"name": "web", "uuid": vm[-1]})
    with caplog.at_level(logging.INFO, "vmguard"):
        reporter(FENCE)
    assert [line.message for line in caplog.records] == ["VM 'web' is fenced"]
    [line] = read(str(tmp_path))
    assert line["fields"]["name"] == "web"
    assert eventually(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text() == "vm.fence web EIO\n")


def test_a_command_that_hangs_is_killed_and_the_next_event_still_told(tmp_path: Path) -> None:
    script = f"echo $VMGUARD_TEXT >> {tmp_path}/told; [ $VMGUARD_TEXT != one ] || sleep 100"
    notifier = Notifier(lambda: Wanted(script, 0.3))
    began = time.monotonic()
    for text in ("one", "two"):
        notifier.tell(Report(Level.ERROR, "c", text), {})
    assert time.monotonic() - began < 0.2
    assert eventually(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text() == "one\ntwo\n", 5)


def test_a_report_that_cannot_be_made_keeps_nothing_from_being_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Failing(History):
        def add(self, report: Report, fields: dict[str, str]) -> None:
            raise MemoryError

    notifier = Notifier(lambda: Wanted(f"touch {tmp_path}/told", level=Level.INFO))
    history = Failing(str(tmp_path))
    with monkeypatch.context() as patched:
        no_threads(patched)
        Reporter(history, notifier, lambda vm: {})(Report(Level.INFO, "vm.freeze", "is frozen"))
    Reporter(history, notifier, lambda vm: {})(Report(Level.INFO, "vm.thaw", "goes on"))
    assert eventually(lambda: (tmp_path / "told").exists(), 5)


def test_a_name_of_any_kind_does_not_end_the_runner(tmp_path: Path) -> None:
    """Half of a surrogate pair, from a record on the share, cannot be in an environment."""
    notifier = Notifier(lambda: Wanted(f"printf '%s\\n' \"$VMGUARD_TEXT\" >> {tmp_path}/told"))
    for text in ("held by \ud800\udcff\x1b[31m\nb", "next"):
        notifier.tell(Report(Level.ERROR, "c", text), {"disk": text})
    told = tmp_path / "told"
    wanted = "held by \\ud800\\udcff\\x1b[31m\\nb\nnext\n"
    assert eventually(lambda: told.exists() and told.read_text() == wanted, 10)
