"""The command line's questions: they change nothing."""

from __future__ import annotations

import os

import vmguard
from vmguard.adapters.linux import clock
from vmguard.daemon.api.sessions import Handler, Request
from vmguard.daemon.api.watchdog_status import WatchdogStatus
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.report import acknowledged, history
from vmguard.daemon.report.notices import Notices
from vmguard.daemon.runtime.descriptors import Descriptors
from vmguard.errors import BadInput
from vmguard.protocol.wire import Message


class Questions:
    """The handlers of ``status``, ``history``, ``more``, ``who``, ``health`` and ``ping``."""

    def __init__(
        self, run_dir: str, registry: Registry, watchdog: WatchdogStatus, descriptors: Descriptors, notices: Notices
    ) -> None:
        self._run_dir = run_dir
        self._registry = registry
        self._descriptors = descriptors
        self._watchdog = watchdog
        self._notices = notices
        self._started = clock.wall()

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self._status,
            "history": self._history,
            "more": self._more,
            "who": self._who,
            "health": self._health,
            "ping": self._ping,
        }

    def _status(self, request: Request) -> None:
        vms = [
            {**vm.as_json(), "watch": self._watchdog.of_vm(vm), "other_mounts": vm.other_mounts_as_json()}
            for vm in self._registry
        ]
        request.session.answer_list(vms)

    def _history(self, request: Request) -> None:
        request.session.answer_list(history.read(self._run_dir))

    def _more(self, request: Request) -> Message:
        if not request.session.text:
            raise BadInput("there is no more of a list")
        return request.session.next_part()

    def _who(self, request: Request) -> Message:
        key = (request.message.get("device") or 0, request.message.get("inode") or 0)
        return {"vms": [vm.as_json() for vm in self._registry.holder_of(key)]}

    def _health(self, request: Request) -> Message:
        told = {"descriptors": self._descriptors.as_json(), "notify": self._notices.as_json()}
        return {**self._watchdog.health(), **told, "acknowledged": acknowledged.until(self._run_dir)}

    def _ping(self, request: Request) -> Message:
        return {"version": vmguard.__version__, "since": self._started, "pid": os.getpid(), "vms": len(self._registry)}
