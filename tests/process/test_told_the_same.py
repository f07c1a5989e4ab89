"""What people read of a state is the same everywhere: check, status, who, systemctl status, metrics, exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_maintenance_holds import Scene
from tests.support.guard import REPOSITORY, eventually

pytestmark = pytest.mark.process

FREEZE = {"action": "freeze", "fence_after": "0s"}
FENCE = {"action": "fence"}


class Told(Scene):
    """A scene, and what systemd is told by its daemon."""

    def __init__(self, folder: Path, **unguarded: str) -> None:
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self._line = ""
        threading.Thread(target=self._listen, daemon=True).start()
        super().__init__(folder, {"NOTIFY_SOCKET": str(folder / "notify")}, **unguarded)

    def _listen(self) -> None:
        while said := self.manager.recv(4096):  # which drops descriptors that come with it, as PID 1 does at a barrier
            for line in said.decode().splitlines():
                if line.startswith("STATUS="):
                    self._line = line.removeprefix("STATUS=")

    def unit_line(self) -> str:
        return self._line

    def exit_codes(self) -> tuple[int, int, int]:
        """Of check, status and who."""
        words = (["check", "web"], ["status"], ["who", str(self.vm.disks[0])])
        check, status, who = (self.guard.vmguard(*command).status for command in words)
        return check, status, who

    def said(self, *words: str) -> str:
        answer = self.guard.vmguard(*words)
        return answer.out + answer.err

    def end(self) -> None:
        super().end()
        self.manager.shutdown(socket.SHUT_RDWR)
        self.manager.close()


@pytest.fixture
def told(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Told]:
    made = Told(tmp_path, **getattr(request, "param", FREEZE))
    yield made
    made.end()


def test_all_is_well(told: Told) -> None:
    assert eventually(lambda: told.exit_codes() == (0, 0, 0))
    assert eventually(lambda: told.unit_line().startswith("OK: "))
    assert "vmguard_fenced_lately 0" in told.metrics()


def test_disarmed(told: Told) -> None:
    told.guard.vmguard("maintenance", "--for", "10m", "--reason", "disks move")
    check, status, _ = told.exit_codes()
    assert (check, status) == (1, 1)
    assert "until the VM is frozen" not in told.said("check", "web")
    assert "maintenance for" in json.loads(told.guard.vmguard("check", "web", "--json").out)["disarmed"]
    assert eventually(lambda: "no VM is frozen or fenced (disks move, by root)" in told.unit_line())
    told.guard.vmguard("arm")
    assert eventually(lambda: "maintenance" not in told.unit_line())


def test_frozen_over_a_conflict(told: Told) -> None:
    told.qemu.open(told.other)
    assert eventually(lambda: told.state == "T")
    assert told.exit_codes() == (2, 2, 2)
    assert "guarded here by VM 'web' (running)" not in told.said("who", str(told.vm.disks[0]))
    assert eventually(lambda: "CRITICAL: VM 'web' in conflict, frozen since " in told.unit_line())
    assert 'vmguard_vm_frozen{vm="web"' in told.metrics()


@pytest.mark.parametrize("told", [FENCE], indirect=True)
def test_killed_by_a_fence_until_it_is_acknowledged(told: Told) -> None:
    told.qemu.open(told.other)
    assert eventually(lambda: told.state in "ZX")
    told.qemu.kill()
    told.rival.let_go()
    assert eventually(lambda: "fence.done" in told.codes(), 10)
    assert told.guard.vmguard("status").status == 2
    assert "CRITICAL: VM 'web' killed (fenced) at " in told.said("status")
    assert [vm["name"] for vm in json.loads(told.guard.vmguard("status", "--json").out)["fenced"]] == ["web"]
    assert eventually(lambda: "VM 'web' killed (fenced) at " in told.unit_line())
    assert "vmguard_fenced_lately 1" in told.metrics()

    assert "VM 'web' was killed" in told.said("history", "--acknowledge")
    assert told.guard.vmguard("status").status == 0
    assert "vmguard_fenced_lately 0" in told.metrics()
    assert "fence.done" in told.codes(), "the history stays"


@pytest.mark.parametrize(
    "words", [["status"], ["check", "web"], ["history"], ["metrics"], ["history", "--acknowledge"]]
)
def test_an_ordinary_user_is_told_so(told: Told, words: list[str]) -> None:
    os.chmod(told.guard.folder.parent, 0o711)
    os.chmod(told.guard.folder, 0o711)
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    config = ["--config", str(told.guard.config)]
    program = [sys.executable, "-m", "vmguard", *config, *words]
    done = subprocess.run([*as_nobody, *program], capture_output=True, text=True, cwd=REPOSITORY)
    said = done.stdout + done.stderr
    assert "guards no VM" not in said
    assert "bug" not in said
    assert "root" in said, said
    assert done.returncode == 3, said
