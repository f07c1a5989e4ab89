"""The clocks of guests that were frozen, set through virsh."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.test_watch_driver import World
from vmguard.adapters.linux import clock, spawn
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.watch.guest_clocks import GuestClocks


@pytest.fixture
def world(tmp_path: Path) -> World:
    os.mkdir(tmp_path / "run")
    return World(tmp_path)


@pytest.mark.process
def test_the_clock_of_a_guest_that_stood_still_is_set_where_it_is_wanted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "virsh"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$5" != db ]\n')
    script.chmod(0o755)
    monkeypatch.setattr(spawn, "PATH", f"{tmp_path}:{spawn.PATH}")
    late: list[float] = []
    world.loop = Loop(lambda: clock.boottime() + sum(late))
    guest_clocks = GuestClocks(world.loop, world.registry)
    long, short, unwanted, again = (world.vm(name) for name in ("db", "short", "unwanted", "web"))
    for vm in (long, unwanted, again):
        guest_clocks.frozen(vm)
        late.append(5.0)
        guest_clocks.frozen(vm)  # tried again: it has stood still since the first time
    guest_clocks.frozen(short)
    caplog.set_level("INFO")
    for vm in (long, short, unwanted, again):
        guest_clocks.thawed(vm, vm is not unwanted)
    deadline = clock.boottime() + 10
    while "VM 'web': its clock is set" not in caplog.text and clock.boottime() < deadline:
        world.loop.turn()
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"-q -c qemu:///system domtime {name} --now" for name in ("db", "web")
    ]
    assert "VM 'db': its clock is late" in caplog.text
