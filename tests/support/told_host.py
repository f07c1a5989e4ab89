"""A host with one guarded VM in simulated time, and what is told of it at every place where people look.

The daemon's own parts run in the test's loop, over a made-up NFS mount whose server answers as the test says. QEMU is a
real process, so that a freeze is a freeze. The commands run in the process of the test, and get the messages without a
socket.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

import vmguard
from tests.support.processes import track
from tests.support.simulated_loop import SimulatedLoop
from vmguard.adapters.linux import clock, pidfd
from vmguard.adapters.linux.mount_table import MountTable
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.linux.mountstats import NfsStatistics
from vmguard.cli.main import main
from vmguard.config.settings import Config
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.sources.process_arguments import Kind
from vmguard.core.watchdog.events import Answer, Ask, Probe
from vmguard.daemon import wiring
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.report import history
from vmguard.daemon.watch.probes import Probes
from vmguard.errors import DaemonError, DaemonForbidden
from vmguard.protocol import wire
from vmguard.protocol.client import Daemon
from vmguard.query import running

POINT, SERVER, LEASE_S = "/srv/vm", "10.77.0.11", 10.0
UUID = "0d8a2c0c-76ab-5d58-9a63-3b9e4f4b2f05"


class Said(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def first(self) -> str:
        return (self.out or self.err).partition("\n")[0]


class _Table(MountTable):
    """The made-up mount."""

    def __init__(self, device: int) -> None:
        self._mount = Mount(1, device, POINT, "nfs4", f"{SERVER}:/vm", "vers=4.2,hard")
        self._statistics = NfsStatistics(POINT)
        self._statistics.lease = LEASE_S

    def mounts(self) -> Iterator[Mount]:
        return iter([self._mount])

    def statistics(self) -> dict[str, NfsStatistics]:
        return {POINT: self._statistics}


class ToldHost:
    """The host. ``patch`` puts the clock and the server in the place of the real ones."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, config_problems: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.loop = SimulatedLoop(clock.boottime())
        patch.setattr(Probes, "ask", lambda _, effect: self._asked(effect))
        patch.setattr(pidfd, "send", self._send)
        #: what the server says of a lock: the name of an errno, empty for yes; None: it is silent
        self.server: str | None = ""
        #: whether a process obeys SIGKILL: one that waits for a dead storage does not
        self.dies = True
        self._owed: list[tuple[Ask, float]] = []
        self.run_dir = folder / "run"
        self.disk = folder / "web.raw"
        self.disk.write_bytes(bytes(8192))
        self.run_dir.mkdir(mode=0o700)
        (folder / "c.yaml").write_text(json.dumps(self._config()))
        table = _Table(folder.stat().st_dev)
        self.parts = wiring.Parts(
            self.loop, str(self.run_dir), Config, table=table, config_problems=lambda: config_problems
        )
        #: whether the daemon runs, and whether it answers whoever asks
        self.is_up, self.answers_all = True, True
        patch.setattr(running, "require", self._require)
        patch.setattr(wire, "connect", self._connect)
        patch.setattr(Daemon, "ping", lambda _: {"version": vmguard.__version__, "pid": os.getpid()})
        patch.setattr(Daemon, "status", lambda _: self.status())
        patch.setattr(Daemon, "health", lambda _: self.health())
        patch.setattr(Daemon, "adopt", lambda *_: [])
        self.qemu = track(subprocess.Popen(["sleep", "999"]))
        self._vms: list[GuardedVm] = []

    def _config(self) -> dict[str, Any]:
        places = {"run_dir": str(self.folder / "libvirt"), "config_dir": str(self.folder / "domains")}
        return {"daemon": {"run_dir": str(self.run_dir)}, "libvirt": {**places, "hooks_dir": str(self.folder)}}

    # -- the world --------------------------------------------------------------------------------------------------

    def _asked(self, effect: Probe) -> None:
        self._owed += [(ask, self.loop.time) for ask in effect.asks]
        if self.server is not None:
            self.answer(self.server)

    def answer(self, problem: str) -> None:
        """Have the server answer what it was asked, and what it is asked from now on."""
        self.server = problem
        owed, self._owed = self._owed, []
        for ask, sent in owed:
            answer = Answer(self.loop.time, POINT, ask.lock, ask.serial, sent, problem, reached=problem != "EIO")
            self.parts.driver.feed(answer)

    def _send(self, fd: int, number: signal.Signals) -> None:
        if number != signal.SIGKILL or self.dies:
            signal.pidfd_send_signal(fd, number)

    def vm(self, state: State = State.RUNNING, incoming: str = "") -> GuardedVm:
        """Have the VM guarded, and watched."""
        fd = os.open(self.disk, os.O_RDWR)
        status = self.disk.stat()
        file = GuardedFile(str(self.disk), EXCLUSIVE, DISK, "", (status.st_dev, status.st_ino), [(0, 0)])
        file.guard.received(fd)
        pid = self.qemu.pid
        process = GuardedProcess(pid, Kind.QEMU, "qemu-system-x86", pidfd=os.pidfd_open(pid))
        vm = GuardedVm("libvirt", "web", UUID, [file], state, clock.wall(), "QEMU runs", pid, [process])
        vm.incoming = incoming
        self.parts.registry.add(vm)
        self.parts.registry.save(vm)
        self._vms.append(vm)
        self.look()
        return vm

    def vm_without_its_lock(self) -> GuardedVm:
        """Have the VM taken up by a daemon that has lost its descriptor."""
        vm = self.vm()
        again = GuardedVm.from_json(json.loads(json.dumps(vm.as_json())))
        again.processes = vm.processes
        again.files[0].guard.taken_over(None)
        self.parts.registry.remove(vm)
        self.parts.registry.add(again)
        self.look()
        return again

    def stop(self) -> None:
        """Have the daemon end."""
        self.is_up = False

    def until(self, wanted: Callable[[], object]) -> None:
        """Wait for what a thread has in hand; the host's clock stands still."""
        end = time.monotonic() + 10
        while not wanted():
            assert time.monotonic() < end
            self.loop.turn()
            time.sleep(0.001)

    def look(self) -> None:
        """Have the watchdog see what has changed."""
        for vm in self.parts.registry:
            self.parts.observer.tell(vm)
        self.parts.driver.start()
        self.loop.pass_by(0.05, 0.01)

    def pass_by(self, seconds: float) -> None:
        self.loop.pass_by(seconds, 0.05)

    # -- what is said -----------------------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """Return the daemon's answer to ``status``."""
        found = [{**vm.as_json(), "watch": self.parts.watchdog_status.of_vm(vm)} for vm in self.parts.registry]
        return cast("list[dict[str, Any]]", json.loads(json.dumps(found)))

    def health(self) -> dict[str, Any]:
        """Return the daemon's answer to ``health``."""
        found = {**self.parts.watchdog_status.health(), "descriptors": self.parts.descriptors.as_json()}
        return cast("dict[str, Any]", json.loads(json.dumps(found)))

    def _require(self, run_dir: str, patience: float = 0.0) -> None:
        if not self.is_up:
            raise DaemonError("the vmguard daemon does not run", "systemctl start vmguard")

    def _connect(self, path: str, timeout: float) -> socket.socket:
        if os.geteuid() != 0:
            raise DaemonForbidden("user 65534 may not talk to the vmguard daemon", "only root may")
        self._require(str(self.run_dir))
        return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # nothing goes through it

    def say(self, words: list[str], user: int = 0) -> Said:
        """Run a command as a user, at this moment."""
        out, err = io.StringIO(), io.StringIO()
        os.seteuid(user)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["--config", str(self.folder / "c.yaml"), *words])
        finally:
            os.seteuid(0)
        return Said(status, out.getvalue(), err.getvalue())

    def age(self, seconds: float) -> None:
        """Let everything in the history be as much older, or as old as this boot."""
        path = self.run_dir / history.FILE
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        for entry in entries:
            entry["boottime"] = max(0.5, entry["boottime"] - seconds)
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))

    def journal(self) -> str:
        return "\n".join(str(entry["text"]) for entry in history.read(str(self.run_dir)))

    def end(self) -> None:
        self.server, self.dies = "", True
        self.qemu.kill()
        self.qemu.wait()
        for vm in self._vms:
            for fd in vm.pidfds:
                os.close(fd)
        self.loop.close()
