"""While a share does not answer: the daemon answers, other VMs start, and each command ends within its time.

The share is a folder of this machine; for the daemon and the commands under test every call there hangs
(dead_share.py).
A call of the loop's thread among them would be the end of all these tests.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dead_share import DeadShare
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import REPOSITORY, Guard, Vm, eventually, make_disk
from tests.support.processes import track

pytestmark = pytest.mark.process

#: that an answer may take: everything else on this machine may be busy
SOON_S = 1.0


class Place:
    def __init__(self, folder: Path) -> None:
        self.share, self.local = folder / "share", folder / "local"
        for path in (self.share, self.local, folder / "pve/nodes/other/qemu-server"):
            path.mkdir(parents=True)
        #: a stranger's process whose memory is locked: it calls itself QEMU, and has a file of its own open for writing
        own = make_disk(self.local / "own.raw")
        code = "import sys; f = open(sys.argv[1], 'r+b'); open('/proc/self/comm', 'w').write('qemu-locked')"
        words = [sys.executable, "-c", f"{code}; print(flush=True); sys.stdin.read()", str(own)]
        self.locked = track(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert self.locked.stdout is not None
        self.locked.stdout.readline()
        self.dead = DeadShare(folder, [self.share, folder / "pve", f"/proc/{self.locked.pid}/cmdline"])
        self.guard = Guard(folder, proxmox={"config_dir": str(folder / "pve")})
        self.guard.environment = self.dead.environment()
        self.vm = Vm("web", [make_disk(self.share / "web.raw")])

    def command(self, *words: str) -> tuple[int | None, float]:
        """Run a command that sees the dead share; return its status, None if it does not end, and its seconds."""
        began = time.monotonic()
        command = [sys.executable, "-m", "vmguard", "--config", str(self.guard.config), "--timeout", "1", *words]
        env = {**self.dead.environment(), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
        process = track(subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            return None, time.monotonic() - began
        return process.returncode, time.monotonic() - began


def lived_in(folder: Path) -> Iterator[Place]:
    place = Place(folder)
    with place.guard:
        yield place
        place.dead.heal()
    place.locked.kill()
    place.locked.communicate()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield from lived_in(tmp_path)


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """For the commands: a VM is claimed, and the share is dead for as long as they are tried."""
    for place in lived_in(tmp_path_factory.mktemp("outage")):
        assert place.guard.hook("prepare", place.vm.xml()).status == 0
        place.dead.die()
        yield place


def pinned(guard: Guard, name: str) -> bool:
    return set(guard.guards(name).values()) == {"pinned"}


def test_the_daemon_answers_and_another_vm_starts_and_ends(place: Place) -> None:
    guard, vm = place.guard, place.vm
    assert guard.hook("prepare", vm.xml()).status == 0
    with FakeQemu(guard.libvirt_dir, vm, locking=False):  # so that there are copies to be closed in the end
        assert eventually(lambda: pinned(guard, "web"))
        place.dead.die()
        other = Vm("db", [make_disk(place.local / "db.raw")])
        began = time.monotonic()
        assert guard.hook("prepare", other.xml(), "db").status == 0
        with FakeQemu(guard.libvirt_dir, other):
            assert eventually(lambda: pinned(guard, "db"), SOON_S)
            assert time.monotonic() - began < 2 * SOON_S
        guard.hook("release", other.xml(), "db")
        assert eventually(lambda: "db" not in guard.states())
    for _ in range(10):  # its QEMU is dead by now; drain, unlock and close are waiting for the share
        began = time.monotonic()
        assert set(guard.states()) == {"web"}
        assert time.monotonic() - began < SOON_S
        time.sleep(0.1)
    place.dead.heal()
    guard.hook("release", vm.xml())
    assert eventually(lambda: guard.nothing_left(*vm.disks), 5), guard.leftovers(*vm.disks)


def test_a_daemon_starts_and_takes_up_its_vms_while_the_share_is_dead(place: Place) -> None:
    guard, vm = place.guard, place.vm
    assert guard.hook("prepare", vm.xml()).status == 0
    with FakeQemu(guard.libvirt_dir, vm):
        assert eventually(lambda: pinned(guard, "web"))
        place.dead.die()
        guard.kill()
        began = time.monotonic()
        guard.start()
        assert time.monotonic() - began < 3 * SOON_S, "ready is told before anything there is asked"
        assert eventually(lambda: guard.states() == {"web": "running"}, SOON_S)


def test_a_claim_that_dies_with_its_descriptors_on_the_way_stops_nobody(place: Place) -> None:
    place.dead.die()
    answer = place.guard.hook("prepare", place.vm.xml(), fault="held")
    assert answer.status != 0
    began = time.monotonic()
    place.guard.states()
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("check", "web"),
        ("check", "100"),
        ("who", "{share}/web.raw"),
        ("plan", "--vmid", "100"),
        ("audit",),
        ("doctor", "--no-proof"),
        ("metrics",),
        ("timing",),
        ("history",),
        ("report", "--output", "{local}/report"),
        ("adopt", "--all", "--dry-run"),
        ("enable", "proxmox", "--all", "--dry-run"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_each_command_ends(outage: Place, words: tuple[str, ...]) -> None:
    status, seconds = outage.command(*(word.format(share=outage.share, local=outage.local) for word in words))
    assert status is not None, f"it hangs after {seconds:.0f} s"


def test_control_what_reads_there_by_itself_hangs(place: Place) -> None:
    place.dead.die()
    for path in (place.share, f"/proc/{place.locked.pid}/cmdline"):
        code = "import os, sys; os.stat(sys.argv[1]); open(sys.argv[1]).read()"
        words = [sys.executable, "-c", code, str(path)]
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(words, env=place.dead.environment(), timeout=0.5, check=False)
