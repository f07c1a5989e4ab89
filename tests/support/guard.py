"""A private vmguard: a real daemon and a real hook, with run directory, configuration and disks in one folder.

It does not touch any other vmguard on this machine.

::

    guard = Guard(tmp_path)
    with guard:                                   # the daemon is ready
        answer = guard.hook("prepare", vm.xml())  # the shim, as libvirt would call it
        guard.status(); guard.vmguard("check", "web")
        locks_on(disk)                            # what /proc/locks says
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from tests.support.processes import Supervised
from vmguard.cli.hook_script import text as hook_text

REPOSITORY = Path(__file__).resolve().parents[2]
#: the sh between the test and the hook stands for libvirtd, so that a fault point can kill the hook's parent
_LIBVIRTD = ("/bin/sh", "-c", '"$@"; exit $?', "libvirtd")
#: what libvirt passes on of its environment (virRunScript); the tests add VMGUARD_RUN_DIR and VMGUARD_FAULT
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


class Lock(NamedTuple):
    """A line of /proc/locks."""

    kind: str
    exclusive: bool
    start: int
    end: str


class Answer(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str
    seconds: float


class Vm:
    """A VM as libvirt would describe it."""

    def __init__(self, name: str, disks: Sequence[Path], identity: str = "") -> None:
        self.name = name
        self.disks = list(disks)
        self.uuid = identity or str(uuid.uuid4())

    def xml(self, inside: str = "") -> bytes:
        disks = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file={quoteattr(str(disk))}/>"
            f"<target dev='vd{chr(ord('a') + number)}' bus='virtio'/></disk>"
            for number, disk in enumerate(self.disks)
        )
        return (
            f"<domain type='qemu'><name>{escape(self.name)}</name><uuid>{self.uuid}</uuid>"
            f"<devices>{disks}{inside}</devices></domain>"
        ).encode()


def make_disk(path: Path, size: int = 1 << 20) -> Path:
    """Create an empty, sparse raw image."""
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def locks_on(*paths: Path) -> list[Lock]:
    """Return all byte-range locks on these files, of every process, as /proc/locks lists them."""
    wanted = {(status.st_dev, status.st_ino) for status in map(os.stat, paths)}
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "->" in words[1]:  # a waiter, not a holder
            continue
        major, minor, inode = words[5].split(":")
        if (os.makedev(int(major, 16), int(minor, 16)), int(inode)) in wanted:
            found.append(Lock(words[1], words[3] == "WRITE", int(words[6]), words[7]))
    return found


def holders_of(*paths: Path) -> list[int]:
    """Return the pids of all processes that have one of these files open."""
    wanted = {str(path) for path in paths}
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if wanted & _open_paths(pid)]


def _open_paths(pid: int) -> set[str]:
    paths = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            paths.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass
    return paths


def eventually(wanted: Callable[[], bool], seconds: float | None = None) -> bool:
    """Wait until a condition holds; return whether it did in time.

    Without ``seconds`` nothing is said about how long it may take: a machine that is busy with other tests gets longer.
    """
    deadline = time.monotonic() + (usual_patience() if seconds is None else seconds)
    while not wanted():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def usual_patience() -> float:
    """Return for how many seconds a condition is waited for: 3, and longer where processes wait for a processor."""
    per_processor = os.getloadavg()[0] / (os.cpu_count() or 1)
    return 3.0 * min(max(1.0, per_processor), 8.0)


def run(command: Sequence[str], stdin: bytes = b"", env: dict[str, str] | None = None, timeout: float = 50.0) -> Answer:
    """Run a command until every process has closed its pipes, as libvirt does.

    If that is interrupted, every process in the command's process group is killed.
    """
    began = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd="/", process_group=0)
    try:
        out, err = process.communicate(stdin, timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet: the number is still its own
        process.communicate()
        raise
    return Answer(
        process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - began
    )


class Guard:
    """A daemon, its hook and its commands. A context manager; ``start`` and ``kill`` may alternate."""

    def __init__(self, folder: Path, prefix: Sequence[str] = (), **sections: dict[str, Any]) -> None:
        #: words put before every command, to run it in another mount namespace
        self.prefix = list(prefix)
        self.folder = folder
        self.run_dir = folder / "run"
        self.libvirt_dir = folder / "libvirt"
        self.config = folder / "vmguard.yaml"
        self.hook_file = folder / "qemu-hook"
        #: additions to the daemon's environment
        self.environment: dict[str, str] = {}
        self.process: Supervised | None = None
        self._launched: list[Supervised] = []
        self.libvirt_dir.mkdir(exist_ok=True)
        (folder / "domains").mkdir(exist_ok=True)
        self.configure(**sections)
        self.hook_file.write_text(hook_text("libvirt"))
        self.hook_file.chmod(0o755)

    def configure(self, **sections: dict[str, Any]) -> None:
        """Rewrite the configuration; the daemon reads it when it starts and on SIGHUP."""
        values: dict[str, dict[str, Any]] = {
            "daemon": {"run_dir": str(self.run_dir), "poll_interval": "50ms"},
            "libvirt": {"run_dir": str(self.libvirt_dir), "config_dir": str(self.folder / "domains"), "events": "no"},
            "hook": {"wait": "500ms"},
            "hosts": {"name": "alpha"},
        }
        for section, given in sections.items():
            values.setdefault(section, {}).update(given)
        self.config.write_text(json.dumps(values))  # JSON is YAML

    def __enter__(self) -> Guard:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.end()

    def end(self) -> None:
        """End all daemons that were launched, and every process that descends from them."""
        while self._launched:
            self._launched.pop().end()
        self.process = None

    @property
    def log(self) -> str:
        path = self.folder / "daemon.log"
        return path.read_text() if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self) -> Supervised:
        """Start a daemon process without waiting for anything."""
        with (self.folder / "daemon.log").open("ab") as log:
            process = Supervised(self.daemon_command(), log, {**os.environ, **self.environment}, REPOSITORY)
        self._launched.append(process)
        return process

    def daemon_command(self) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "vmguard", "--config", str(self.config), "daemon"]

    def start(self) -> None:
        """Start the daemon and wait until it is ready. If it fails to start, end it and all of its descendants."""
        ready = self.log.count("ready, guarding")
        process = self.process = self.launch()
        try:
            assert eventually(lambda: self.log.count("ready, guarding") > ready or process.poll() is not None, 20)
            assert process.poll() is None, self.log
        except BaseException:
            self.process = None
            process.end()
            raise

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the daemon a signal and wait for its end."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)

    def stop(self) -> None:
        self.kill(signal.SIGTERM)

    def hook(
        self, operation: str, xml: bytes, name: str = "web", fault: str = "", words: Sequence[str] = ("begin", "-")
    ) -> Answer:
        """Call the hook as libvirt does."""
        return run(self.hook_command(name, operation, *words), xml, self.hook_environment(fault))

    def hook_command(self, *words: str) -> list[str]:
        return [*self.prefix, *_LIBVIRTD, str(self.hook_file), *words]

    def hook_environment(self, fault: str = "") -> dict[str, str]:
        return {**_ENVIRONMENT, "VMGUARD_RUN_DIR": str(self.run_dir), **({"VMGUARD_FAULT": fault} if fault else {})}

    def vmguard(self, *words: str) -> Answer:
        """Run a command of vmguard with this guard's configuration."""
        command = [*self.prefix, sys.executable, "-m", "vmguard", "--config", str(self.config), *words]
        return run(command, env={**_ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)})

    def status(self) -> list[dict[str, Any]]:
        """Return the VMs of ``vmguard status --json``, asked directly from the daemon."""
        from vmguard.protocol.client import Daemon

        with Daemon(str(self.run_dir)) as daemon:
            return daemon.status()

    def states(self) -> dict[str, str]:
        return {vm["name"]: vm["state"] for vm in self.status()}

    def guards(self, name: str) -> dict[str, str]:
        """Return how each file of a VM is guarded, by path: ``pinned``, ``held``, ``lost``."""
        return {file["path"]: file["guard"] for vm in self.status() if vm["name"] == name for file in vm["files"]}

    def leftovers(self, *disks: Path) -> dict[str, Any]:
        """Return what earlier starts have left: registered VMs, locks on the disks, processes, state files."""
        found = {
            "vms": self.states(),
            "locks": locks_on(*disks),
            "open in": holders_of(*disks),
            "files": sorted(os.listdir(self.run_dir / "vms")),
        }
        return {what: value for what, value in found.items() if value}

    def nothing_left(self, *disks: Path) -> bool:
        return not self.leftovers(*disks)
