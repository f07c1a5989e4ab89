"""Questions to the daemon, for the command line."""

from __future__ import annotations

import json
import os
from typing import Any

from vmguard.errors import DaemonError, WireError
from vmguard.protocol import wire


class Daemon:
    """A connection to this host's daemon, for the length of a ``with`` block. Raises DaemonError when there is none."""

    def __init__(self, run_dir: str, timeout: float = 3.0) -> None:
        self._path = os.path.join(run_dir, wire.SOCKET_NAME)
        self._timeout = timeout

    def __enter__(self) -> Daemon:
        self._connection = wire.connect(self._path, self._timeout)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ping(self) -> dict[str, Any]:
        """Version, start time, pid and number of VMs of the daemon."""
        return self._ask({"op": "ping"})

    def who(self, device: int, inode: int) -> list[dict[str, Any]]:
        """The VMs of this host that hold a file."""
        vms: list[dict[str, Any]] = self._ask({"op": "who", "device": device, "inode": inode})["vms"]
        return vms

    def health(self) -> dict[str, Any]:
        """The leases of all mounts, fences under way, whether the watchdog is disarmed."""
        return self._ask({"op": "health"})

    def disarm(self, seconds: float, reason: str, by: str) -> dict[str, Any]:
        return self._ask({"op": "disarm", "seconds": seconds, "reason": reason, "by": by})

    def arm(self, by: str) -> dict[str, Any]:
        return self._ask({"op": "arm", "by": by})

    def status(self) -> list[dict[str, Any]]:
        """All guarded VMs of this host."""
        return self._ask_for_list({"op": "status"})

    def adopt(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Have VMs guarded that run already; what became of each. ``wanted``: see the daemon's adopt.py."""
        return self._ask_for_list({"op": "adopt", **wanted})

    def _ask_for_list(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """A long answer: it comes in a memory file."""
        try:
            self._connection.send(message)
            received = self._connection.receive()
        except (OSError, WireError) as problem:
            raise DaemonError(f"the vmguard daemon does not answer: {problem}") from problem
        if received is None:
            raise DaemonError("the vmguard daemon closed the connection")
        answer, fds = received
        if answer.get("ok") is not True or len(fds) != 1:
            error = answer.get("error") or {}
            raise DaemonError(str(error.get("message", "the daemon refused")), str(error.get("hint", "")))
        with os.fdopen(fds[0], "rb") as stream:
            stream.seek(0)
            found: list[dict[str, Any]] = json.load(stream)
        return found

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._connection.ask(message)
        except (OSError, WireError) as problem:
            raise DaemonError(f"the vmguard daemon does not answer: {problem}", "journalctl -u vmguard") from problem
