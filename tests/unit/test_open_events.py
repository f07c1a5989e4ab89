"""Who opens a guarded file: without inotify it is seen later, and nothing else is worse."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.simulated_loop import SimulatedLoop
from vmguard.adapters.linux.inotify import Inotify
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.scan.open_events import OpenEvents


class AtOnce:
    """In the place of the storage threads: what they do is done at once."""

    def __init__(self) -> None:
        self.done = 0

    def run(self, device: int, what: str, work: Any, told: Any) -> None:
        self.done += 1
        try:
            result = work()
        except OSError as problem:
            result = problem
        told(result)


class Limited:
    """A kernel that has no more instances of inotify for a while, and then no watches."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.watches = True

    def __call__(self) -> Inotify:
        if self.failures > 0:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return NoWatches() if not self.watches else Inotify()


class NoWatches(Inotify):
    def add(self, path: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class World:
    def __init__(self, disk: Path, kernel: Limited) -> None:
        self.loop, self.threads = SimulatedLoop(), AtOnce()
        self.opened: list[str] = []
        disk.write_bytes(b"")
        self.disk = disk
        status = disk.stat()
        self.file = GuardedFile(str(disk), "exclusive", "disk", "hook", (status.st_dev, status.st_ino), [(0, 0)])
        self.file.guard.received(os.open(disk, os.O_RDWR))
        self.vm = GuardedVm("libvirt", "web", "00000000-0000-0000-0000-000000000001", files=[self.file])
        living = lambda vm: True  # noqa: E731
        threads: Any = self.threads
        self.events = OpenEvents(self.loop, threads, self.opened.append, lambda: None, living, kernel)

    def open_disk(self) -> None:
        os.close(os.open(self.disk, os.O_RDONLY))
        self.loop.turn()


def test_no_instance_at_the_start_is_said_and_asked_for_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path / "disk", Limited(failures=2))
    world.events.add(world.vm, world.file)
    world.open_disk()
    assert (world.threads.done, world.opened) == (0, [])
    assert caplog.text.count("fs.inotify.max_user_instances") == 1
    world.events.forget(world.vm)
    world.loop.pass_by(130.0, step=1.0)
    world.events.add(world.vm, world.file)
    world.open_disk()
    assert world.opened == [world.vm.id]


def test_no_watch_left_is_said_once_with_the_limit_to_raise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Limited()
    kernel.watches = False
    world = World(tmp_path / "disk", kernel)
    for _ in range(3):
        world.events.add(world.vm, world.file)
        world.loop.pass_by(61.0, step=1.0)
    assert world.threads.done == 3
    assert caplog.text.count("fs.inotify.max_user_watches") == 1
    assert not world.events.watches(world.vm, world.file)
