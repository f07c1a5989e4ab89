"""Questions to this host's daemon, with parsed answers; and its state files, which answer while it is down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vmguard.adapters.linux import statefile
from vmguard.errors import DaemonError, DaemonForbidden
from vmguard.protocol.client import Daemon
from vmguard.query import running
from vmguard.query.answers import (
    AdoptAnswer,
    ArmAnswer,
    DisarmAnswer,
    DisarmedAnswer,
    HealthAnswer,
    Known,
    PingAnswer,
    VmAnswer,
)
from vmguard.query.places import Places

_ANSWER_TIMEOUT_S = 3.0
#: how much longer than the daemon itself a client waits for the result of an ``adopt``
_ADOPT_EXTRA_S = 5.0


@dataclass(frozen=True)
class AdoptRequest:
    """Which running VMs to adopt. ``seconds`` bounds how long the daemon waits for the storage."""

    names: tuple[str, ...] = ()
    everything: bool = False
    pid: int = 0
    dry_run: bool = False
    seconds: float = 10.0

    def as_json(self) -> dict[str, object]:
        return {
            "names": list(self.names),
            "all": self.everything,
            "pid": self.pid,
            "dry_run": self.dry_run,
            "seconds": self.seconds,
        }


class DaemonQuery:
    """A connection to the daemon, for the length of a ``with`` block.

    Every question raises DaemonError when the daemon cannot be reached or refuses, WireError when its answer is not
    understood.
    """

    def __init__(self, run_dir: str, timeout: float = _ANSWER_TIMEOUT_S) -> None:
        """``timeout``: seconds that each answer may take."""
        self._daemon = Daemon(run_dir, timeout)

    def __enter__(self) -> DaemonQuery:
        self._daemon.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.__exit__()

    def ping(self) -> PingAnswer:
        return PingAnswer.from_json(self._daemon.ping())

    def guarded_vms(self) -> list[VmAnswer]:
        return [VmAnswer.from_json(vm) for vm in self._daemon.status()]

    def health(self) -> HealthAnswer:
        return HealthAnswer.from_json(self._daemon.health())

    def history(self) -> list[dict[str, Any]]:
        """Return the entries of the history, the oldest first."""
        return self._daemon.history()

    def adopt(self, request: AdoptRequest) -> list[AdoptAnswer]:
        return [AdoptAnswer.from_json(result) for result in self._daemon.adopt(request.as_json())]

    def disarm(self, seconds: float, reason: str, by: str) -> DisarmAnswer:
        return DisarmAnswer.from_json(self._daemon.disarm(seconds, reason, by))

    def arm(self, by: str) -> DisarmedAnswer | None:
        """Return what ended by it; None when the watchdog was armed already."""
        return ArmAnswer.from_json(self._daemon.arm(by)).was


def everything(places: Places) -> Known:
    """Return all that the daemon knows; while it is down its state files tell what it guarded when it was last alive.

    A daemon that was stopped is not started by the question. Raises WireError when an answer or a state file is not
    understood, DaemonForbidden when this user may not ask.
    """
    try:
        running.require(places.run_dir)
        with DaemonQuery(places.run_dir) as daemon:
            return Known(daemon.guarded_vms(), daemon.health())
    except DaemonForbidden:
        raise  # nor may its state files be read: "no VM" would be a lie
    except DaemonError as problem:
        return Known(last_guarded(places), problem=problem.message)


def last_guarded(places: Places) -> list[VmAnswer]:
    """Return what the daemon guarded when it was last alive, from its state files.

    Raises WireError, and DaemonForbidden for a reader who may ask the daemon, but not look into its files.
    """
    return [VmAnswer.from_json(vm) for vm in state_files(places.run_dir)]


def adopt(run_dir: str, request: AdoptRequest) -> list[AdoptAnswer]:
    """Adopt running VMs; return what became of each. Raises DaemonError."""
    with DaemonQuery(run_dir, request.seconds + _ADOPT_EXTRA_S) as daemon:
        return daemon.adopt(request)


def state_files(run_dir: str) -> Iterator[dict[str, Any]]:
    """Yield what the daemon's state files hold: the VMs that it guards, or guarded when it was last alive."""
    folder = os.path.join(run_dir, "vms")
    try:
        names = sorted(os.listdir(folder))
    except PermissionError:  # "no VM" would be a lie
        text = "the vmguard daemon does not run, and what it guarded when it was last alive only root may read"
        raise DaemonForbidden(text, "systemctl start vmguard") from None
    except OSError:
        return
    for name in names:
        value = statefile.read(os.path.join(folder, name)) if name.endswith(".json") else None
        if value is not None and isinstance(value.get("files"), list):
            yield value
