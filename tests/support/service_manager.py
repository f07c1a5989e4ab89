"""The service manager that a process notifies (sd_notify(3)), in the test's own hands.

::

    @pytest.fixture
    def manager(tmp_path, monkeypatch):
        yield from open_manager(tmp_path, monkeypatch)

    systemd.notify("READY=1")
    assert manager.next() == (["READY=1"], [])
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest


class Manager:
    """PID 1's side of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(3)

    def next(self) -> tuple[list[str], list[int]]:
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 16)
        return data.decode().splitlines(), list(fds)


def open_manager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Listen at a socket that this process, and its children, take for the service manager's."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
    manager = Manager(folder / "notify")
    with manager.socket:
        yield manager
