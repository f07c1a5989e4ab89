"""Guarded hosts whose daemon may die: something keeps its descriptors and starts the next one.

Under ``Units`` that is the real systemd with the unit files of packaging/systemd; under ``Stored`` it is the small
stand-in tests/scenarios/inside/store.py, for guests without systemd, which are up in a tenth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.guest import PYTHON, REPOSITORY
from tests.support.guarded_guests import VMGUARD, Guarded

PACKAGED = Path(REPOSITORY) / "packaging" / "systemd"
UNITS = "/etc/systemd/system"


def until(wanted: Callable[[], object], what: Callable[[], str], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not wanted():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


class Stored(Guarded):
    """A daemon under the stand-in. ``start_daemon`` again kills the one that runs, for another environment."""

    daemon_command: tuple[str, ...] = (VMGUARD, "daemon")

    def start_daemon(self, env: dict[str, str] | None = None) -> None:
        if self.daemon is None:
            self.install()
            command = [PYTHON, f"{REPOSITORY}/tests/scenarios/inside/store.py", *self.daemon_command]
            self.daemon = self.host.spawn(command, stdin=True)
        ready = self.told("ready")
        self._order("start " + " ".join(f"{name}={value}" for name, value in (env or {}).items()))
        self.wait_told("ready", ready + 1)

    def _order(self, line: str) -> None:
        assert self.daemon is not None
        self.daemon.send(f"{line}\n".encode())

    def told(self, word: str) -> int:
        """How often the store has said so."""
        assert self.daemon is not None
        return sum(line.startswith(word) for line in self.daemon.output()[0].splitlines())

    def wait_told(self, word: str, count: int) -> None:
        until(lambda: self.told(word) >= count, lambda: f"no {word!r} number {count}: {self.said()}\n{self.log()}")

    def said(self) -> str:
        assert self.daemon is not None
        return self.daemon.output()[0]

    def names(self) -> list[str]:
        """What the store keeps."""
        before = self.told("names")
        self._order("names")
        self.wait_told("names", before + 1)
        return [line for line in self.said().splitlines() if line.startswith("names")][-1].split()[1:]

    def kill_daemon(self) -> None:
        """SIGKILL, and wait until the next one is ready."""
        ended, ready = self.told("ended"), self.told("ready")
        self._order("kill")
        self.wait_told("ended", ended + 1)
        self.wait_told("ready", ready + 1)

    def stop_daemon(self) -> None:
        """SIGKILL; nothing keeps its descriptors and nobody listens, until ``start_daemon``."""
        ended = self.told("ended")
        self._order("stop")
        self.wait_told("ended", ended + 1)


class Units(Guarded):
    """vmguard installed by its unit files, in a guest whose process 1 is systemd."""

    def start_daemon(self, env: dict[str, str] | None = None, command: str = f"{VMGUARD} daemon") -> None:
        self.install()
        for path in PACKAGED.iterdir():
            self.host.put(f"{UNITS}/{path.name}", path.read_bytes())
        lines = ["[Service]", "ExecStart=", f"ExecStart={command}"]
        lines += [f"Environment={name}={value}" for name, value in (env or {}).items()]
        self.host.put(f"{UNITS}/vmguard.service.d/lab.conf", "\n".join(lines).encode())
        self.systemctl("daemon-reload")
        self.systemctl("start vmguard.socket vmguard.service", 60)

    def systemctl(self, words: str, timeout: float = 30.0) -> str:
        return self.host.run(f"systemctl {words}", timeout).stdout.strip()

    def show(self, name: str) -> str:
        return self.systemctl(f"show vmguard.service --value -p {name}")

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def kept(self) -> int:
        """How many descriptors systemd keeps."""
        return int(self.show("NFileDescriptorStore"))

    def kill_daemon(self) -> None:
        """SIGKILL, and wait until systemd has started the next one and it is ready."""
        before = self.pid()
        self.host.run(["kill", "-9", str(before)])
        self.wait_ready(before)

    def wait_ready(self, before: int) -> None:
        until(lambda: self.pid() not in (0, before) and self.show("ActiveState") == "active", self.log, 30)

    def log(self) -> str:
        return self.host.run("journalctl --no-pager -o cat -u vmguard.service", 20, check=False).stdout
