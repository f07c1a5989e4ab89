"""The daemon's parts without a daemon: they run in the test's own loop and take only the test's folder for a share.

::

    @pytest.fixture
    def corner(tmp_path):
        yield from open_corner(tmp_path)

    writer = corner.writer("-name", "web")       # a process that looks like QEMU
    writer.open(corner.disk("web.raw"))
    corner.until(corner.pinned)
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.processes import track
from vmguard.adapters.linux import clock, may_block, ofd, proc
from vmguard.adapters.linux.mounts import Mount
from vmguard.config.libvirt import Libvirt
from vmguard.config.owner_record import OwnerRecord
from vmguard.config.proxmox import Proxmox
from vmguard.config.settings import Config, Daemon, Unguarded
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.ranges import LIBVIRT_RANGE, QEMU_RANGE, WHOLE, held_ranges
from vmguard.core.watchdog.events import Adopted
from vmguard.daemon import wiring
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.report import history
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.scan.process_fds import MountTables, ProcessFds

#: byte ranges that are locked of a file
PIECES = held_ranges([LIBVIRT_RANGE, QEMU_RANGE])
#: opens the files named on stdin, locks QEMU's permission bytes on demand, and keeps writing to the first file
_CODE = """
import fcntl, json, os, select, struct, sys
fds = {}
while True:
    if select.select([0], [], [], 0.01)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        verb, path, flags, locks, kind = json.loads(line)
        if verb == "close":
            os.close(fds.pop(path))
        else:
            fds[path] = os.open(path, flags)
            for byte in locks:
                fcntl.fcntl(fds[path], fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, byte, 1, 0))
        print("done", flush=True)
    for fd in list(fds.values())[:1]:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE:
            os.pwrite(fd, b"%020d" % __import__("time").monotonic_ns(), 512)
"""


class Writer:
    """A process that looks like QEMU, or like one of its helpers, and writes like one."""

    def __init__(
        self,
        *arguments: str,
        program: str = "qemu-system-x86_64",
        user: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        command = [program, "-IS", "-c", _CODE, *arguments]
        pipe, groups = subprocess.PIPE, None if user is None else ()
        self.process = track(
            subprocess.Popen(
                command,
                executable=sys.executable,
                stdin=pipe,
                stdout=pipe,
                text=True,
                user=user,
                group=user,
                extra_groups=groups,
                pass_fds=pass_fds,
            )
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def open(self, path: Path, flags: int = os.O_RDWR, locks: tuple[int, ...] = (), exclusive: bool = False) -> None:
        """Open a file, and lock some of its bytes."""
        self._do("open", path, flags, locks, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK)

    def close(self, path: Path) -> None:
        self._do("close", path)

    def _do(self, verb: str, path: Path, flags: int = 0, locks: tuple[int, ...] = (), kind: int = 0) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, str(path), flags, locks, kind]) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class FolderInside(proc.FdFolder):
    """A process's descriptors of files in one folder.

    Processes of other tests must not be taken for VMs, so files elsewhere are left out.
    """

    __slots__ = ("_inside",)

    def __init__(self, inside: str, pid: int) -> None:
        super().__init__(pid)
        self._inside = inside

    def links(self, most: int, characters: int = 1 << 20) -> list[tuple[str, str]]:
        return [item for item in super().links(most, characters) if item[1].startswith(self._inside)] or [("0", "")]

    def has(self, links: list[tuple[str, str]]) -> bool:
        return self.links(len(links) + 1) == links


class Corner:
    """One loop and one registry, with the test's folder as the share."""

    def __init__(
        self, folder: Path, command_line: Callable[[int, bool], proc.CommandLine | None] = may_block.command_line
    ) -> None:
        self.folder = folder
        self.config = dataclasses.replace(
            Config(),
            daemon=Daemon(start_deadline=5.0, poll_interval=0.05),
            libvirt=Libvirt(run_dir=str(folder), events=False),
            proxmox=Proxmox(run_dir=str(folder)),
            owner_record=OwnerRecord(enabled=False),
        )
        #: seconds by which the loop's clock is ahead of the host's
        self.late = 0.0
        self.loop = Loop(lambda: clock.boottime() + self.late)
        share = Mount(1, folder.stat().st_dev, str(folder), "nfs4", "nas:/vm", "vers=4.2,hard")
        self.parts = wiring.Parts(
            self.loop,
            str(folder / "run"),
            lambda: self.config,
            pin_interval_s=0.2,
            tables=MountTables(self.loop.now, lambda: [share]),
            fds_of=lambda pid: ProcessFds(pid, functools.partial(FolderInside, str(folder))),
            command_lines=CommandLines(self.loop, command_line),
        )
        self.registry, self.pinner, self.lifecycle = self.parts.registry, self.parts.pinner, self.parts.lifecycle
        self.unclaimed_qemus, self.migration_target = self.parts.unclaimed_qemus, self.parts.migration_target
        self.writers: list[Writer] = []

    @property
    def settings(self) -> Unguarded:
        """The configuration's section ``unguarded``."""
        return self.config.unguarded

    @settings.setter
    def settings(self, value: Unguarded) -> None:
        self.config = dataclasses.replace(self.config, unguarded=value)

    def history(self) -> list[str]:
        """Return the codes of all reports so far."""
        return [entry["code"] for entry in history.read(str(self.folder / "run"))]

    def adopt(self) -> None:
        """Do as a person who lets the VM go on."""
        self.parts.driver.feed(Adopted(self.loop.now(), self.vm.id))

    def disk(self, name: str, user: int = 0) -> Path:
        path = self.folder / name
        path.write_bytes(bytes(4096))
        os.chown(path, user, user)
        return path

    def writer(self, *arguments: str, program: str = "qemu-system-x86_64", user: int | None = None) -> Writer:
        self.writers.append(Writer(*arguments, program=program, user=user))
        return self.writers[-1]

    def names(self, pid_file: str, process: Writer) -> None:
        """Write a pid file of the hypervisor's, as root does: it vouches for that process."""
        (self.folder / pid_file).write_text(f"{process.pid}\n")

    def until(self, wanted: Callable[[], object], seconds: float = 10.0, counting: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < deadline, [vm.as_json() for vm in self.registry]
            if counting:
                self.unclaimed_qemus.round()
            self.loop.turn()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, seconds + 10)

    @property
    def vm(self) -> GuardedVm:
        (vm,) = self.registry
        return vm

    def pinned(self, files: int = 1, vms: int = 1) -> bool:
        """Return whether there are that many VMs, each with that many files, all pinned."""
        found = [[file.guard.state for file in vm.files] for vm in self.registry]
        return len(found) == vms and all(states == [GuardState.PINNED] * files for states in found)

    def end(self) -> None:
        for writer in self.writers:
            writer.end()
        while self.parts.storage_threads.busy():  # a worker that is done wakes the loop
            time.sleep(0.01)
        time.sleep(0.05)
        self.loop.close()


class Rival:
    """Another host that holds a lock on the disk. ``kind``: ofd.WRITE or ofd.READ."""

    def __init__(self, path: Path, kind: int = ofd.WRITE) -> None:
        self.fd = os.open(path, os.O_RDWR)
        ofd.lock(self.fd, str(path), kind, WHOLE)

    def let_go(self) -> None:
        """Close the file; nothing happens the second time."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def open_corner(
    folder: Path, command_line: Callable[[int, bool], proc.CommandLine | None] = may_block.command_line
) -> Iterator[Corner]:
    """Yield a corner and end it afterwards; for use in a fixture."""
    corner = Corner(folder, command_line)
    corner.loop.call_in(0.0, corner.parts.start)

    def wake() -> None:  # keeps a turn of the loop from sleeping long
        corner.loop.call_in(0.02, wake)

    wake()
    try:
        yield corner
    finally:
        corner.end()
