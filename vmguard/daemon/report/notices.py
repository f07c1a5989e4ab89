"""Tell the targets of ``notify.targets``: put reports into their queues, and have jobs send what is due.

All of it in a thread of its own: the loop only appends to a list in memory. So neither a full or dead disk, nor a name
server, nor an endpoint can delay what a report announces. Reports of one moment become one message. What was reported
but not yet queued when a daemon ended is found in the history by the next one.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmguard.adapters.linux import atomic_file, clock, host_identity, oom_and_scheduling, statefile
from vmguard.adapters.linux.spawn import ended, python, spawn
from vmguard.adapters.messages.queue import Queue, State
from vmguard.core.notices.event import Event, make
from vmguard.core.notices.pace import GRACE_S
from vmguard.core.notices.wanted import Wish, choose
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.report import history
from vmguard.errors import VmguardError

log = logging.getLogger("vmguard.report")

#: reports in memory, and in one message
_MAX_REPORTS = 5000
_MAX_BATCH = 1000
#: for which a report waits for others of the same moment
GATHER_S = 1.0
#: between two looks at a job that runs
_POLL_S = 0.1
_IDLE_S = 600.0
#: until a disk that took nothing is asked once more
_AGAIN_S = 10.0
#: that the end of the daemon waits for
_END_S = 0.5
#: that a job is given to end by itself
_KILL_S = 3.0
_CURSOR = "cursor.json"
#: events of the last batch whose ids are kept, and by how much two readings of the clock for one report may differ
_MAX_SEEN = 200
_ROUNDED_S = 0.005
#: what happened longer ago is not told any more: there was no target then
_LATE_S = 600.0


@dataclass(frozen=True)
class Wanted:
    """The targets by name: what each wants, and its settings as JSON (vmguard/config/notify.py)."""

    folder: str = ""
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """One report, as it came from the loop."""

    at: str
    boottime: float
    code: str
    level: Level
    text: str
    fields: Mapping[str, str]

    def event(self, boot: str) -> Event:
        return make(self.at, self.code, self.level, self.text, self.fields, boot)


@dataclass(frozen=True)
class TargetState:
    """How it stands with a target."""

    waiting: int = 0
    state: State = field(default_factory=State)
    dropped: int = 0

    def as_json(self, name: str, kind: str) -> dict[str, Any]:
        state = self.state
        return {
            "target": name,
            "type": kind,
            "waiting": self.waiting,
            "problem": state.problem,
            "failing_since": state.failing_since,
            "answer": state.answer,
            "delivered": state.delivered,
            "messages": state.messages,
            "dropped": self.dropped,
        }


class Notices:
    """The queues of all targets, and the jobs that empty them."""

    def __init__(
        self,
        run_dir: str,
        wanted: Callable[[], Wanted],
        report: Callable[[Report], object],
        host: Callable[[], str] = host_identity.host_name,
    ) -> None:
        """``report`` is called from the thread, and must be safe for that."""
        self._run_dir = run_dir
        self._wanted = wanted
        self._report = report
        self._host = host
        self._began = clock.boottime()
        #: None: there is nothing more to come
        self._reports: queue.Queue[Told | None] = queue.Queue(_MAX_REPORTS)
        self._ended = False
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._jobs: dict[str, tuple[int, float]] = {}
        #: by target: events that the disk did not take
        self._untaken: dict[str, list[Event]] = {}
        #: replaced as a whole by the thread
        self._known: dict[str, TargetState] = {}

    # -- the loop's thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Go on with what an earlier daemon left."""
        if self._wanted().targets:
            self._begin()

    def tell(self, report: Report, fields: Mapping[str, str]) -> None:
        """Take a report; never wait."""
        if not self._wanted().targets:
            return
        try:
            told = Told(clock.wall(), clock.boottime(), report.code, report.level, report.sentence, fields)
            self._reports.put_nowait(told)
        except queue.Full:
            self._lost += 1
        self._begin()

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return bool(self._jobs)

    def end(self) -> None:
        """Put what was reported into the queues, if the disk takes it at once: the host may be about to go down."""
        if self._thread is None:
            return
        self._ended = True
        try:
            self._reports.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_END_S)

    def as_json(self) -> list[dict[str, Any]]:
        """Return how it stands with each target, as of the last look."""
        targets, known = self._wanted().targets, self._known
        return [known.get(name, TargetState()).as_json(name, str(entry["type"])) for name, entry in targets.items()]

    def _begin(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="vmguard notices", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as problem:
            log.warning("messages have to wait: %s", problem)
            return
        self._thread = thread

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep(self._missed())
            self._tell_that_it_runs_again()
            if self._cursor().get("boot") != host_identity.boot_id():
                self._mark(self._began, [])
        except Exception:
            log.exception("what an earlier daemon did not tell is lost")
        while not self._ended:
            try:
                self._reap()
                self._start_due()
                self._keep(self._gather(self._patience()))
            except Exception:  # the next report is wanted all the same
                log.exception("a message is late")
                threading.Event().wait(1.0)

    def _gather(self, patience: float) -> list[Told]:
        """Wait for a report, then for those of the same moment."""
        found: list[Told] = []
        end = clock.boottime() + patience
        while (left := end - clock.boottime()) > 0 and len(found) < _MAX_BATCH:
            try:
                told = self._reports.get(timeout=left)
            except queue.Empty:
                break
            if told is None:
                break
            if not found:
                end = clock.boottime() + GATHER_S
            found.append(told)
        return found

    def _keep(self, found: Sequence[Told]) -> None:
        """Put reports into the queue of each target that wants them, and what a full disk did not take before."""
        if not found and not self._untaken:
            return
        if self._lost:
            log.warning("%d events came too fast to be told", self._lost)
            self._lost = 0
        wanted, boot = self._wanted(), host_identity.boot_id()
        events = [told.event(boot) for told in found]
        for name in wanted.targets:
            waiting = Queue(wanted.folder, name)
            known, offered = waiting.opened().incidents, self._untaken.pop(name, []) + events
            chosen, incidents = choose(name, wanted.wishes[name], offered, known)
            if not chosen:
                continue
            try:
                dropped = waiting.add(chosen, incidents)
            except OSError as problem:
                log.error("nothing can wait for target %s: %s", name, problem)
                self._untaken[name] = offered[-_MAX_BATCH:]
                continue
            if dropped:
                self._say(
                    Level.WARNING, "notify.dropped", f"{dropped} events for {name} were dropped: too much waits", name
                )
        if found:
            self._mark(found[-1].boottime, [event.id for event in events[-_MAX_SEEN:]])

    def _mark(self, boottime: float, last: Sequence[str]) -> None:
        """Remember up to where the history is in the queues."""
        cursor = {"boot": host_identity.boot_id(), "boottime": boottime, "last": list(last)}
        try:
            atomic_file.own_folder(self._wanted().folder)
            statefile.write(os.path.join(self._wanted().folder, _CURSOR), cursor, sync=False)
        except OSError as problem:
            log.debug("the place in the history is not kept: %s", problem)

    def _cursor(self) -> dict[str, Any]:
        return statefile.read(os.path.join(self._wanted().folder, _CURSOR)) or {}

    def _missed(self) -> list[Told]:
        """Return what the history has behind the last report that an earlier daemon of this boot put into queues."""
        cursor = self._cursor()
        boot, since, last = cursor.get("boot"), cursor.get("boottime"), cursor.get("last")
        if boot != host_identity.boot_id() or not isinstance(since, int | float) or not isinstance(last, list):
            return []
        found, since = [], max(since, self._began - _LATE_S)
        for entry in history.read(self._run_dir):
            try:
                told = _from_history(entry)
            except (KeyError, TypeError, ValueError, VmguardError):
                continue
            if since - _ROUNDED_S <= told.boottime < self._began and told.event(str(boot)).id not in last:
                found.append(told)
        return found

    def _tell_that_it_runs_again(self) -> None:
        """Report that the daemon runs, if a target was told that it did not (``vmguard notify watch``)."""
        wanted = self._wanted()
        if any("daemon" in Queue(wanted.folder, name).opened().incidents for name in wanted.targets):
            self._report(Report(Level.INFO, "daemon.up", "the vmguard daemon runs again", {}))

    def _patience(self) -> float:
        """Return how long nothing but a new report needs to be looked after."""
        if self._jobs:
            return _POLL_S
        now = clock.boottime()
        if self._untaken:
            return _AGAIN_S
        due = [known.state.pace.due(now) for name, known in self._known.items() if known.waiting]
        return min(_IDLE_S, max(_POLL_S, min(due) - now)) if due else _IDLE_S

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        wanted, now = self._wanted(), clock.boottime()
        self._known = {
            name: self._known.get(name, TargetState()) if name in self._jobs else self._look(Queue(wanted.folder, name))
            for name in wanted.targets
        }
        for name, entry in wanted.targets.items():
            known = self._known[name]
            if name in self._jobs or not known.waiting or known.state.pace.due(now) > now:
                continue
            try:
                pid = self._spawn(wanted.folder, name, entry)
            except OSError as problem:
                log.warning("no message is sent to %s: %s", name, problem)
                continue
            oom_and_scheduling.ordinary(pid)
            self._jobs[name] = (pid, now + float(entry["timeout"]) + GRACE_S + _KILL_S)

    def _spawn(self, folder: str, name: str, entry: Mapping[str, Any]) -> int:
        order = {"wanted": dict(entry), "host": self._host()}
        with os.fdopen(os.memfd_create("vmguard-stdin", os.MFD_CLOEXEC), "w+b") as stream:
            stream.write(json.dumps(order).encode())
            stream.seek(0)
            return spawn(python("vmguard.jobs.notify", [folder, name]), stdin=stream.fileno(), session=True)

    def _reap(self) -> None:
        now = clock.boottime()
        for name, (pid, deadline) in list(self._jobs.items()):
            if ended(pid) is not None:
                del self._jobs[name]
                self._compare(name, Queue(self._wanted().folder, name))
            elif now >= deadline:
                os.killpg(pid, signal.SIGKILL)

    def _compare(self, name: str, waiting: Queue) -> None:
        """Report when a target begins to fail, and when it works again."""
        before, after = self._known.get(name, TargetState()).state, waiting.state()
        if after.under_way:  # its process was ended
            try:
                waiting.give_up(float(self._wanted().targets[name]["timeout"]))
            except (KeyError, OSError):
                return  # it is no target any more, or another process sends to it just now
            after = waiting.state()
        self._known = {**self._known, name: self._look(waiting)}  # first: who hears the report asks how it stands
        if after.problem and not before.problem:
            self._say(Level.WARNING, "notify.failed", f"messages to {name} are not delivered: {after.problem}", name)
        elif before.problem and not after.problem and after.messages > before.messages:
            self._say(Level.INFO, "notify.delivered", f"messages to {name} are delivered again: {after.answer}", name)

    def _say(self, level: Level, code: str, text: str, target: str) -> None:
        self._report(Report(level, code, text, {"target": target}))

    @staticmethod
    def _look(waiting: Queue) -> TargetState:
        return TargetState(waiting.waiting(), waiting.state(), waiting.opened().dropped)


def _from_history(entry: Mapping[str, Any]) -> Told:
    """Raises KeyError, TypeError, ValueError for what is no entry of a history."""
    fields = {str(name): str(value) for name, value in entry["fields"].items()}
    boottime = float(entry["boottime"])
    return Told(str(entry["at"]), boottime, str(entry["code"]), Level(entry["level"]), str(entry["text"]), fields)
