"""A real fencer whose QEMUs are processes of this machine; the test does what the claim's lifecycle would do.

::

    world = World(tmp_path); vm = world.vm()
    climb(world, vm)                                  # begin to fence it
    world.turn(lambda: "fence.drain" in world.codes)
    world.release(vm); world.close()
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import track
from vmguard.adapters.hypervisor import RunDirs
from vmguard.adapters.linux import clock, hardware_watchdog, ofd, proc
from vmguard.core.locks.claim_states import State
from vmguard.core.locks.guard_states import Pin
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.core.sources.process_arguments import Kind
from vmguard.core.watchdog.events import Cause, Report
from vmguard.core.watchdog.fence_ladder import Others
from vmguard.core.watchdog.policy import Policy
from vmguard.core.watchdog.timing import Rungs
from vmguard.daemon.fence.fencer import Fencer, FencerDeps
from vmguard.daemon.fence.signals import Signals
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedProcess, GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop

WRITER = "import os, sys; os.open(sys.argv[1], os.O_RDWR); print(flush=True); sys.stdin.read()"
FAST = Rungs(copy=0.2, kill=0.1, death=0.2, drain=0.2, cut=0.2, release=0.3, clean_up=2.0)


class WatchedSignals(Signals):
    """Signals whose SIGKILL a test may watch, or replace: ``killer`` is what sends it."""

    def __init__(self, loop: Loop, registry: Registry) -> None:
        super().__init__(loop, registry)
        self.killer: Callable[[GuardedVm], set[int]] = super().kill

    def kill(self, vm: GuardedVm) -> set[int]:
        return self.killer(vm)


class World:
    """A fencer with real surroundings, except for the claim's lifecycle, whose part the test plays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk.raw"
        self.disk.write_bytes(bytes(4096))
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        self.loop = Loop()
        self.registry = Registry(str(self.run_dir))
        self.signals = WatchedSignals(self.loop, self.registry)
        self.reports: list[Report] = []
        self.gone: list[str] = []
        self.host = hardware_watchdog.HardwareWatchdog(str(folder / "watchdog"))
        self.others = Others.NONE
        #: stands in for the pinner's copies: what it does is the test's
        self.copy: Callable[[GuardedVm], None] = lambda vm: None
        deps = FencerDeps(
            report=self.reports.append,
            others=lambda vm_id: self.others,
            why_no_restart=lambda mounts: "",
            copy=lambda vm: self.copy(vm),
            gone=self.gone.append,
            host=self.host,
            run_dirs=lambda: RunDirs(str(folder), str(folder / "qemu-server")),
            spans=FAST,
            notice_s=0.1,
            start_retry_s=0.05,
        )
        self.fences = self.run_dir / "fences"
        self.fencer = Fencer(self.loop, self.registry, self.signals, str(self.fences), deps)
        self.children: list[subprocess.Popen[bytes]] = []

    def run(self, code: str, *words: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-IS", "-c", code, *words]
        pipe = subprocess.PIPE
        child = track(subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=pass_fds))
        assert child.stdout is not None
        child.stdout.readline()
        self.children.append(child)
        return child

    def vm(self, pinned: bool = True) -> GuardedVm:
        """Register a running VM whose QEMU is a child process of the test."""
        qemu = self.run(WRITER, str(self.disk))
        fd = os.open(self.disk, os.O_RDWR)
        ofd.lock(fd, str(self.disk), ofd.WRITE, (0, 0))
        file = GuardedFile(str(self.disk), EXCLUSIVE, DISK, "", proc.own_key(fd), [(0, 0)])
        if pinned:
            file.guard.pinned_on(Pin(qemu.pid, 3), fd, None)
        else:
            file.guard.received(fd)
        vm = GuardedVm("libvirt", "web", "0000", [file], State.RUNNING, pid=qemu.pid)
        vm.processes = [GuardedProcess(qemu.pid, Kind.QEMU, pidfd=os.pidfd_open(qemu.pid))]
        self.registry.add(vm)
        return vm

    def ended(self, vm: GuardedVm) -> None:
        """Play the lifecycle's part when a VM's processes are found dead."""
        for process in vm.processes:
            os.close(process.pidfd)
        vm.processes = []
        vm.move(State.ENDED, "its processes are seen dead")

    def release(self, vm: GuardedVm) -> None:
        if vm.state is State.RUNNING:
            vm.move(State.ENDED, "its processes are seen dead")
        vm.move(State.RELEASING, "all is proven")
        descriptor = vm.files[0].guard.closed("all is proven")
        assert descriptor is not None
        os.close(descriptor)
        self.registry.remove(vm)
        for callback in vm.when_released:
            callback()

    def turn(self, until: Callable[[], object], seconds: float = 5.0) -> bool:
        deadline = clock.boottime() + seconds
        while not until() and clock.boottime() < deadline:
            self.loop.turn()
        return bool(until())

    @property
    def codes(self) -> list[str]:
        return [report.code for report in self.reports]

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()


def begin_fence(world: World, vm: GuardedVm, **policy: Any) -> None:
    world.fencer.begin(vm, "the lock is lost", Cause.LOST, Policy(**policy))
