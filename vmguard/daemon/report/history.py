"""Send each report once, in order, to the journal, to `vmguard history`, to the admin's command and to messages.

The history is a bounded file in /run/vmguard. A full disk, a dead journal or a hanging command delays nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

from vmguard.adapters.linux import atomic_file, clock, journal
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.words import in_utf8
from vmguard.daemon.report.notify_command import Notifier
from vmguard.errors import VmguardError

log = logging.getLogger("vmguard.report")

FILE = "history.jsonl"
#: size beyond which the older half of the file is dropped
_MAX_BYTES = 2 * 1024 * 1024

_LEVELS = {Level.ERROR: logging.ERROR, Level.WARNING: logging.WARNING, Level.INFO: logging.INFO}


class History:
    """The history file."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, FILE)

    def add(self, report: Report, fields: dict[str, str]) -> None:
        """Append a report; on a full disk it is dropped."""
        entry = {
            "at": clock.wall(),
            "boottime": round(clock.boottime(), 3),
            "level": str(report.level),
            "code": report.code,
            "text": report.sentence,
            "fields": fields,
        }
        try:
            self._shorten()
            atomic_file.append(self._path, f"{json.dumps(in_utf8(entry))}\n".encode())
        except OSError as problem:
            log.debug("history not written: %s", problem)

    def _shorten(self) -> None:
        try:
            if os.stat(self._path).st_size <= _MAX_BYTES:
                return
        except FileNotFoundError:
            return
        with open(self._path, "rb") as stream:
            lines = stream.readlines()
        atomic_file.write(self._path, b"".join(lines[len(lines) // 2 :]), sync=False)


class Reporter:
    """The only way out for reports. ``about`` returns the name and uuid of a VM that a report names by its id."""

    def __init__(
        self,
        history: History,
        notifier: Notifier,
        about: Callable[[str], dict[str, str]],
        reported: Callable[[Report], object] = lambda _: None,
        notices: Callable[[Report, dict[str, str]], object] = lambda *_: None,
    ) -> None:
        """``notices`` puts a report into messages, and never waits; ``reported`` is called after each report."""
        self._history = history
        self._notifier = notifier
        self._about = about
        self._reported = reported
        self._notices = notices

    def __call__(self, report: Report) -> None:
        fields = dict(report.fields)
        if "vm" in fields:
            fields |= self._about(fields["vm"])
        extra = {journal.FIELDS: {"event": report.code, **fields}}
        ways: tuple[Callable[[], object], ...] = (
            lambda: log.log(_LEVELS[report.level], "%s", report.sentence, extra=extra),
            lambda: self._history.add(report, fields),
            lambda: self._notifier.tell(report, fields),
            lambda: self._notices(report, fields),
            lambda: self._reported(report),
        )
        for tell in ways:
            try:
                tell()
            except Exception:  # out of memory, say: the reported action must be taken all the same
                log.exception("a report is lost: %s", report.code)


def read(run_dir: str) -> list[dict[str, Any]]:
    """Return all entries, oldest first; skip lines that were cut short. Raises VmguardError without the right to."""
    return read_file(os.path.join(run_dir, FILE), must_exist=False)


def read_file(path: str, must_exist: bool = True) -> list[dict[str, Any]]:
    """Return the entries of a history, as ``read`` does."""
    entries = []
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    entries.append(json.loads(line))
                except (ValueError, RecursionError):
                    continue
    except PermissionError:
        raise VmguardError(f"what this host guards may not be read by user {os.geteuid()}", "run it as root") from None
    except OSError as problem:
        if must_exist or not isinstance(problem, FileNotFoundError):
            raise VmguardError(f"{path} cannot be read: {problem.strerror}", "name a history.jsonl") from None
    return [entry for entry in entries if isinstance(entry, dict)]


def is_whole(path: str) -> bool:
    """Return whether a history begins with the boot: its older half was never dropped."""
    try:
        return os.stat(path).st_size < _MAX_BYTES // 4
    except FileNotFoundError:
        return True
    except OSError:  # who may only ask the daemon cannot look
        return False
