"""The command line's client of the daemon: one method for each request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from vmguard.errors import DaemonError, DaemonForbidden, WireError
from vmguard.protocol import readers, wire
from vmguard.protocol.requests import REQUESTS, Answer


class Daemon:
    """A connection to this host's daemon, for the length of a ``with`` block. Raises DaemonError when there is none.

    Who may not command the daemon asks it over the socket for readers, if it lets him.
    """

    def __init__(self, run_dir: str, timeout: float = 3.0) -> None:
        """``timeout``: seconds that each answer may take."""
        self._run_dir = run_dir
        self._timeout = timeout

    def __enter__(self) -> Daemon:
        try:
            self._connection = wire.connect(os.path.join(self._run_dir, wire.SOCKET_NAME), self._timeout)
        except DaemonForbidden as forbidden:
            self._connection = readers.connect(self._run_dir, self._timeout, forbidden)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ping(self) -> dict[str, Any]:
        """Return version, start time, pid and number of VMs of the daemon."""
        return self._ask("ping")

    def who(self, device: int, inode: int) -> list[dict[str, Any]]:
        """Return the VMs of this host that hold a file."""
        vms: list[dict[str, Any]] = self._ask("who", device=device, inode=inode)["vms"]
        return vms

    def health(self) -> dict[str, Any]:
        """Return the leases of all mounts, fences under way, and whether the watchdog is disarmed."""
        return self._ask("health")

    def disarm(self, seconds: float, reason: str, by: str) -> dict[str, Any]:
        """Let nothing be done to VMs for some seconds; return the new state and whether it survives a restart."""
        return self._ask("disarm", seconds=seconds, reason=reason, by=by)

    def arm(self, by: str) -> dict[str, Any]:
        """Let the watchdog act again; return what it was disarmed by, if it was."""
        return self._ask("arm", by=by)

    def status(self) -> list[dict[str, Any]]:
        """Return all guarded VMs of this host."""
        return self._ask_for_list("status")

    def history(self) -> list[dict[str, Any]]:
        """Return what the watchdog saw and did since the boot, the oldest first."""
        return self._ask_for_list("history")

    def adopt(self, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Have VMs guarded that run already; return what became of each.

        ``wanted``: the keys of the request ``adopt`` (vmguard/protocol/requests.py).
        """
        return self._ask_for_list("adopt", **wanted)

    def _ask(self, operation: str, **keys: object) -> dict[str, Any]:
        answer, fds = self._exchange(operation, keys)
        for fd in fds:
            os.close(fd)
        return answer

    def _ask_for_list(self, operation: str, **keys: object) -> list[dict[str, Any]]:
        answer, fds = self._exchange(operation, keys)
        found: list[dict[str, Any]]
        if not fds:
            found = json.loads("".join(self._parts(answer)))
            return found
        with os.fdopen(fds[0], "rb") as stream:
            stream.seek(0)
            found = json.load(stream)
        return found

    def _parts(self, answer: wire.Message) -> Iterator[str]:
        """Yield the parts of a list that comes over the socket for readers."""
        yield answer["part"]
        while answer["left"]:
            answer = self._ask("more")
            yield answer["part"]

    def _exchange(self, operation: str, keys: Mapping[str, object]) -> tuple[wire.Message, list[int]]:
        """Send a request of the table; return its answer and descriptors, of a list exactly one. Raise DaemonError."""
        row = REQUESTS[operation]
        message = {"op": operation, **keys}
        row.check(message)
        try:
            self._connection.send(message)
            answer, fds = self._connection.answer_with_fds()
        except (OSError, WireError) as problem:
            raise DaemonError(f"the vmguard daemon does not answer: {problem}", "journalctl -u vmguard") from problem
        if row.answer is Answer.LIST and len(fds) != 1 and "part" not in answer:
            for fd in fds:
                os.close(fd)
            raise DaemonError("the daemon refused")
        return answer, fds
