"""What libvirt tells makes the daemon look at a VM; a listener that hangs, lies or dies makes nothing worse."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.simulated_loop import SimulatedLoop
from vmguard.core.locks.claim_states import State
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.subprocesses import Done
from vmguard.daemon.scan.libvirt_events import LibvirtEvents
from vmguard.jobs.libvirt_events import MISSING, _tell_lifecycle


class World:
    """A loop, two VMs, and a listener in the test's own hands."""

    def __init__(self, folder: Path) -> None:
        self.loop = SimulatedLoop()
        registry = Registry(str(folder))
        for uuid in ("one", "two"):
            registry.add(GuardedVm("libvirt", uuid, uuid, state=State.RUNNING))
        registry.add(GuardedVm("proxmox", "one", "one", state=State.RUNNING))
        self.looked: list[str] = []
        self.failed: list[str] = []
        self.started = 0
        self.wanted = True
        self.tells = -1
        self.over: Callable[[int], None] = lambda status: None
        looked, failed = self.looked, self.failed
        self.events = LibvirtEvents(
            self.loop,
            registry,
            lambda vm: looked.append(vm.id),
            lambda vm: failed.append(vm.id),
            lambda: self.wanted,
            self._start,
        )

    def _start(self, loop: Loop, module: str, done: Done, words: Sequence[str], *, fds: Sequence[int]) -> None:
        assert (module, words[1]) == ("libvirt_events", str(fds[0]))
        self.tells = os.dup(fds[0])
        self.over = done
        self.started += 1

    def tell(self, text: bytes) -> list[str]:
        """Who is looked at for that."""
        self.looked.clear()
        os.write(self.tells, text)
        self.loop.turn()
        return self.looked

    def end(self, status: int) -> None:
        os.close(self.tells)
        self.loop.turn()
        self.over(status)
        self.loop.pass_by(30.0, 1.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_vm_that_libvirt_speaks_of_is_looked_at(world: World) -> None:
    world.events.start()
    assert world.tell(b"\n") == []
    assert world.tell(b"two\n") == ["libvirt-two"]
    assert world.tell(b"one\nthree\ntwo\n") == ["libvirt-one", "libvirt-two"]


def test_the_locks_of_a_vm_with_an_io_error_are_asked(world: World) -> None:
    world.events.start()
    assert world.tell(b"one io-error\none io-error\n") == []
    assert world.failed == ["libvirt-one"]


@pytest.mark.parametrize("text", [b"on", b"\xff\xfe\n", b"one two\n", b"../one\n" * 1000], ids=repr)
def test_what_makes_no_sense_does_no_harm(world: World, text: bytes) -> None:
    world.events.start()
    assert world.tell(text) == []
    world.tell(b"\n")
    assert world.tell(b"one\n") == ["libvirt-one"]


def test_a_listener_that_ends_is_started_again(world: World) -> None:
    world.events.start()
    world.end(1)
    assert world.started == 2
    assert world.tell(b"one\n") == ["libvirt-one"]
    world.end(-9)
    assert world.started == 3


def test_without_libvirt_python_it_is_not_tried_again(world: World) -> None:
    world.events.start()
    world.end(MISSING)
    assert world.started == 1


def test_a_host_without_libvirt_is_asked_again_later(world: World) -> None:
    world.wanted = False
    world.events.start()
    assert world.started == 0
    world.wanted = True
    world.loop.pass_by(6.0, 1.0)
    assert world.started == 1


class Domain:
    def UUIDString(self) -> str:
        return "one"


@pytest.mark.parametrize(
    ("event", "told"), [("STARTED", b"one\n"), ("STOPPED", b"one\n"), ("SUSPENDED", b""), ("RESUMED", b"")]
)
def test_a_guest_that_stands_still_or_goes_on_is_no_reason_to_look(event: str, told: bytes) -> None:
    libvirt = pytest.importorskip("libvirt")
    heard, tells = os.pipe2(os.O_NONBLOCK)
    _tell_lifecycle(None, Domain(), getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}"), 0, tells)
    os.close(tells)
    assert os.read(heard, 100) == told
    os.close(heard)
