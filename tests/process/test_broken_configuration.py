"""A typing mistake in /etc/vmguard unguards nothing: daemon and commands go on with the last good configuration."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import REPOSITORY, Answer, Guard, Vm, eventually, locks_on, make_disk, run
from tests.support.namespaces import Space

pytestmark = pytest.mark.process

_PRIVATE = """
mount -t tmpfs none /mnt; mkdir /mnt/etc /mnt/etc-work /mnt/lib /mnt/lib-work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/etc-work none /etc
mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/lib,workdir=/mnt/lib-work none /var/lib
rm -rf /etc/vmguard /var/lib/vmguard; mkdir /etc/vmguard
"""
MISTAKE = "hook: {wiat: 5s}\n"
BLAMED = "/etc/vmguard/vmguard.yaml:1: hook.wiat: unknown key; did you mean 'wait'?"


class Host(Guard):
    """A guard whose configuration lies where an admin's does, in a corner with an /etc of its own."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.space = space
        super().__init__(folder, space.prefix)

    @property
    def etc(self) -> Path:
        return self.space.root / "etc/vmguard/vmguard.yaml"

    def daemon_command(self) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "vmguard", "daemon"]

    def vmguard(self, *words: str) -> Answer:
        return run([*self.prefix, sys.executable, "-m", "vmguard", *words], env={"PYTHONPATH": str(REPOSITORY)})

    def write(self, text: str) -> None:
        self.etc.write_text(text)

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Space(_PRIVATE) as space:
        host = Host(tmp_path, space)
        host.write(host.config.read_text())
        with host:
            yield host


def test_a_daemon_that_is_restarted_goes_on_with_the_last_good_one(host: Host) -> None:
    vm = Vm("web", [make_disk(host.folder / "disk.raw")])
    assert host.hook("prepare", vm.xml()).status == 0
    host.stop()
    host.write(MISTAKE)
    host.start()
    assert host.states() == {"web": "claimed"}
    assert f"the configuration is not taken, the last good one is in force: {BLAMED}" in host.log
    second = Vm("db", [make_disk(host.folder / "second.raw")])
    assert host.hook("prepare", second.xml(), "db").status == 0, "starts are guarded all the same"
    assert locks_on(*second.disks)

    status = host.vmguard("status", "--json")
    assert status.status == 2, "a VM that is claimed and has no QEMU yet"
    assert json.loads(status.out)["config_problems"] == [BLAMED]
    assert host.vmguard("status").err.count(BLAMED) == 2  # what the command reads, and what the daemon has read
    assert "vmguard_config_valid 0" in host.vmguard("metrics").out
    assert "config.invalid" in host.vmguard("history", "--json").out
    doctor = host.vmguard("doctor", "--json", "--no-proof")
    assert BLAMED in doctor.out


def test_when_it_is_mended_all_is_well_again(host: Host) -> None:
    good = host.etc.read_text()
    host.write(MISTAKE)
    host.reload()
    assert eventually(lambda: "vmguard_config_valid 0" in host.vmguard("metrics").out)
    host.write(good)
    host.reload()
    assert eventually(lambda: "vmguard_config_valid 1" in host.vmguard("metrics").out)
    assert host.vmguard("status").status == 0


def test_the_values_in_force_are_shown_and_the_mistake_with_them(host: Host) -> None:
    host.write(MISTAKE)
    shown = host.vmguard("config", "show")
    assert "hook.wait" in shown.out
    assert "/var/lib/vmguard/last-good.yaml" in shown.out
    assert BLAMED in shown.err
    assert host.vmguard("config", "check").status == 2


def test_files_that_are_named_are_not_replaced(host: Host) -> None:
    host.config.write_text(MISTAKE)
    answer = host.vmguard("--config", str(host.config), "status")
    assert answer.status != 0
    assert "wiat" in answer.err


def test_control_without_a_last_good_one_the_daemon_does_not_start(host: Host) -> None:
    host.stop()
    (host.space.root / "var/lib/vmguard/last-good.yaml").unlink()
    host.write(MISTAKE)
    process = host.launch()
    assert process.wait(10) != 0
    assert BLAMED in host.log
