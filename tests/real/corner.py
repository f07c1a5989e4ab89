"""The daemon's parts without a daemon: they run in the test's own loop, and see only the test's own files as a share.

::

    @pytest.fixture
    def corner(tmp_path, monkeypatch):
        yield from open_corner(tmp_path, monkeypatch)

    writer = corner.writer("-name", "web")       # a process that looks like QEMU
    writer.open(corner.disk("web.raw"))
    corner.until(corner.pinned)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmguard.adapters.linux import ofd, proc
from vmguard.config.settings import Unguarded
from vmguard.core.locks.ranges import LIBVIRT_WINDOW, QEMU_WINDOW, WHOLE, held
from vmguard.daemon.adopt.unclaimed_qemu import Census
from vmguard.daemon.claim.lifecycle import Keeper, Timing
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import Workers

#: what is locked of a file
PIECES = held([LIBVIRT_WINDOW, QEMU_WINDOW])
#: opens what stdin says, locks QEMU's permission bytes on demand, and beats into the first file
_CODE = """
import fcntl, json, os, select, struct, sys
fds = {}
while True:
    if select.select([0], [], [], 0.01)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        verb, path, flags, locks = json.loads(line)
        if verb == "close":
            os.close(fds.pop(path))
        else:
            fds[path] = os.open(path, flags)
            for byte in locks:
                fcntl.fcntl(fds[path], fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0))
        print("done", flush=True)
    for fd in list(fds.values())[:1]:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE:
            os.pwrite(fd, b"%020d" % __import__("time").monotonic_ns(), 512)
"""


class Writer:
    """A process that looks like QEMU (or like one of its helpers) from outside, and writes like one."""

    def __init__(self, *arguments: str, program: str = "qemu-system-x86_64") -> None:
        self.process = subprocess.Popen(
            [program, "-IS", "-c", _CODE, *arguments],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def open(self, path: Path, flags: int = os.O_RDWR, locks: tuple[int, ...] = ()) -> None:
        self._do("open", path, flags, locks)

    def close(self, path: Path) -> None:
        self._do("close", path)

    def _do(self, verb: str, path: Path, flags: int = 0, locks: tuple[int, ...] = ()) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, str(path), flags, locks]) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Corner:
    """One loop, one registry, and the share is the test's own folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.settings = Unguarded()
        self.loop = Loop()
        self.registry = Registry(str(folder / "run"))
        self._workers = [Workers(self.loop), Workers(self.loop)]
        self.pinner = Pinner(self.loop, self._workers[0], self.registry, lambda *_: None, PIECES, 0.2)
        timing = Timing(5.0, 0.05, str(folder))
        lines = self.command_lines = CommandLines(self.loop)
        self.keeper = Keeper(self.loop, self._workers[1], self.registry, self.pinner, timing, lambda *_: None, lines)
        self.conflicts = Conflicts(self.loop, self.registry, self.pinner, lambda: self.settings)
        self.pinner.on_pinned = lambda vm, _: self.conflicts.solved(vm)
        self.census = Census(self.loop, self.registry, self.keeper, self.pinner, lines, lambda: self.settings)
        device = folder.stat().st_dev
        tables = self.pinner.tables
        monkeypatch.setattr(tables, "shares", lambda: frozenset({device}))
        whole, inside = proc.FdFolder.links, str(folder)
        # Other tests' processes must not be taken for VMs: a file elsewhere is no file.
        monkeypatch.setattr(
            proc.FdFolder,
            "links",
            lambda self: [item for item in whole(self) if item[1].startswith(inside)] or [("0", "")],
        )
        monkeypatch.setattr(proc.FdFolder, "has", lambda self, links: self.links() == links)
        self.writers: list[Writer] = []

    def disk(self, name: str) -> Path:
        path = self.folder / name
        path.write_bytes(bytes(4096))
        return path

    def writer(self, *arguments: str, program: str = "qemu-system-x86_64") -> Writer:
        self.writers.append(Writer(*arguments, program=program))
        return self.writers[-1]

    def until(self, wanted: Callable[[], object], seconds: float = 10.0, counting: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < deadline, [vm.as_json() for vm in self.registry]
            if counting:
                self.census.round()
            self.loop.turn()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, seconds + 10)

    @property
    def vm(self) -> GuardedVm:
        (vm,) = self.registry
        return vm

    def pinned(self, files: int = 1, vms: int = 1) -> bool:
        """Whether there are so many VMs, each with so many files, all pinned."""
        found = [[file.pin for file in vm.files] for vm in self.registry]
        return len(found) == vms and all(len(pins) == files and all(pins) for pins in found)

    def end(self) -> None:
        for writer in self.writers:
            writer.end()
        while any(workers.busy() for workers in self._workers):  # they tell the loop when they are done
            time.sleep(0.01)
        time.sleep(0.05)
        self.loop.close()


class Rival:
    """Another host: somebody with a lock on the disk. ``kind``: ofd.WRITE or ofd.READ."""

    def __init__(self, path: Path, kind: int = ofd.WRITE) -> None:
        self.fd = os.open(path, os.O_RDWR)
        ofd.lock(self.fd, str(path), kind, WHOLE)

    def let_go(self) -> None:
        os.close(self.fd)


def open_corner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Corner]:
    """For a fixture: the corner, and its end."""
    corner = Corner(folder, monkeypatch)
    corner.loop.call_in(0.0, corner.pinner.start)

    def wake() -> None:  # a turn never sleeps long
        corner.loop.call_in(0.02, wake)

    wake()
    yield corner
    corner.end()
