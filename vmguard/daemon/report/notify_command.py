"""Run the admin's command for each event, in a thread that may wait: a fence never waits for it.

The command gets no arguments, and this environment besides PATH, LC_ALL and HOME:

VMGUARD_EVENT      what happened, a word for programs: ``vm.freeze``, ``vm.fence``, ``lock.lost``
VMGUARD_LEVEL      error (a human must look), warning or info
VMGUARD_TEXT       the sentence for people
VMGUARD_HOST       this host's name
VMGUARD_VM         the VM's name, VMGUARD_UUID its uuid (only where it is about one VM)
VMGUARD_DISK, VMGUARD_MOUNT, VMGUARD_VERDICT, VMGUARD_EVIDENCE and so on: the other fields of the report

Each is one line of printable UTF-8: what else a name holds is shown as an escape, and a text without end is cut.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vmguard.adapters.linux import host_identity, oom_and_scheduling
from vmguard.adapters.linux.spawn import ended, spawn
from vmguard.adapters.linux.spawn import environment as program_environment
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.words import printable

log = logging.getLogger("vmguard.report")

#: longest queue of events; a thousand frozen VMs are a thousand events
_MAX_WAITING_EVENTS = 2000
_ORDER = {Level.INFO: 0, Level.WARNING: 1, Level.ERROR: 2}
#: a longer value is cut
_MAX_VALUE_CHARS = 4096


@dataclass(frozen=True)
class Wanted:
    """``command`` is empty when there is none, and is killed after ``seconds``. It gets events from ``level`` up."""

    command: str = ""
    seconds: float = 10.0
    level: Level = Level.WARNING


class Notifier:
    """The runner of the command: one at a time, in the order of the events."""

    def __init__(self, wanted: Callable[[], Wanted]) -> None:
        self._wanted = wanted
        self._events: queue.Queue[Mapping[str, str]] = queue.Queue(_MAX_WAITING_EVENTS)
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def tell(self, report: Report, fields: Mapping[str, str]) -> None:
        """Queue an event for the command, if it is wanted; never wait."""
        wanted = self._wanted()
        if not wanted.command or _ORDER[report.level] < _ORDER[wanted.level]:
            return
        try:
            self._events.put_nowait(environment(report, fields))
        except queue.Full:
            self._dropped += 1
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="vmguard notify", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as problem:
                log.warning("notify.command has to wait: %s", problem)
                return
            self._thread = thread

    def _run(self) -> None:
        while True:
            variables = self._events.get()
            wanted = self._wanted()
            if self._dropped:
                log.warning("notify.command is too slow: it was not told of %d events", self._dropped)
                self._dropped = 0
            if wanted.command:
                try:
                    _call(wanted, variables)
                except Exception:  # the next event is wanted all the same
                    log.exception("notify.command was not told of %s", variables["VMGUARD_EVENT"])


def environment(report: Report, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for one event. None is so long that the kernel would refuse to start the command."""
    known = {
        "EVENT": report.code,
        "LEVEL": str(report.level),
        "TEXT": report.sentence,
        "HOST": host_identity.host_name(),
        "VM": fields.get("name", ""),
        **{name.upper(): value for name, value in fields.items() if name not in ("vm", "name")},
    }
    return program_environment(**{f"VMGUARD_{name}": _value(text) for name, text in known.items()})


def _value(text: str) -> str:
    return printable(text[:_MAX_VALUE_CHARS])


def _call(wanted: Wanted, variables: Mapping[str, str]) -> None:
    try:
        pid = spawn(["/bin/sh", "-c", f"cd /\n{wanted.command}"], env=variables, session=True)
    except OSError as problem:
        log.warning("notify.command cannot be started: %s", problem)
        return
    oom_and_scheduling.ordinary(pid)
    status = _wait(pid, wanted.seconds)
    if status is None:
        _end(pid)
        log.warning("notify.command took longer than %.0f s for %s", wanted.seconds, variables["VMGUARD_EVENT"])
    elif status:
        log.warning("notify.command ended with status %d for %s", status, variables["VMGUARD_EVENT"])


def _wait(pid: int, seconds: float) -> int | None:
    """Return the exit status of a child; None when it takes longer than ``seconds``."""
    pidfd, poll = os.pidfd_open(pid), select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        poll.poll(1000 * seconds)
    finally:
        os.close(pidfd)
    return ended(pid)


def _end(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    _wait(pid, 1.0)  # if it hangs in the kernel, it is left alone
