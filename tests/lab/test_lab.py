"""Proof of the lab: what the scenarios rely on must be true of its kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import CommandFailed, GuestDown, GuestTimeout, Hypervisor, Lab, NfsServer
from tests.lab.space import BASE, dead_labs

pytestmark = pytest.mark.lab

LEASE = 10
GRACE = 10


class Trio:
    """A server and two hosts that have mounted its export."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server: NfsServer = lab.nfs_server(lease=LEASE, grace=GRACE)
        self.a: Hypervisor = lab.hypervisor("hyp-a")
        self.b: Hypervisor = lab.hypervisor("hyp-b")
        lab.start()
        self.a.mount(self.server)
        self.b.mount(self.server)


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    with Lab() as lab:
        yield Trio(lab)


def seconds_until_locked(host: Hypervisor, path: str, limit: float) -> float:
    start = time.monotonic()
    disk = host.locker(path)
    while disk.lock(timeout=limit) != "ok":
        assert time.monotonic() - start < limit, "never got the lock"
        time.sleep(0.1)
    disk.close()
    return time.monotonic() - start


# the line to a guest


def test_commands_return_what_they_printed(trio: Trio) -> None:
    result = trio.a.run("cat; echo err >&2; exit 3", check=False, input=b"\x00\xff")
    assert (result.returncode, result.stdout_bytes, result.stderr) == (3, b"\x00\xff", "err\n")
    with pytest.raises(CommandFailed, match="exit 1"):
        trio.a.run(["false"])
    assert trio.a.run(["sh", "-c", "kill -9 $$"], check=False).returncode == -9
    assert trio.a.run(["no-such-program"], check=False).returncode == 127


def test_many_commands_run_at_once(trio: Trio) -> None:
    start = time.monotonic()
    jobs = [trio.a.spawn(f"sleep 1; echo {n}") for n in range(8)]
    assert [job.wait(20).stdout for job in jobs] == [f"{n}\n" for n in range(8)]
    assert time.monotonic() - start < 6
    outputs: list[str] = []
    threads = [threading.Thread(target=lambda: outputs.append(trio.a.run("hostname").stdout)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == ["hyp-a\n"] * 8


@pytest.mark.parametrize("size", [0, 3000, 60_000, 3_000_000])
def test_files_of_any_size_go_in_and_come_out(trio: Trio, size: int) -> None:
    data = os.urandom(size)
    trio.a.put("/srv/vm/new/folder/file", data)
    assert trio.b.get("/srv/vm/new/folder/file") == data


def test_a_daemon_left_behind_does_not_hold_up_its_starter(trio: Trio) -> None:
    start = time.monotonic()
    assert trio.a.run("sleep 30 & echo started").stdout == "started\n"
    assert time.monotonic() - start < 5


def test_guests_agree_on_the_time(trio: Trio) -> None:
    """A guest that boots on a busy machine is some tenths of a second off, and stays so: clock_offset() tells."""
    first = {guest.name: guest.clock_offset() for guest in trio.lab.guests}
    assert all(abs(offset) < 1.0 for offset in first.values())
    time.sleep(1)
    for guest in trio.lab.guests:
        assert abs(guest.clock_offset() - first[guest.name]) < 0.1


def test_the_checkout_is_in_the_guest_and_writes_to_it_stay_there(trio: Trio) -> None:
    here = Path(__file__)
    assert trio.a.get(str(here)) == here.read_bytes()
    trio.a.run(["sh", "-c", 'echo mess > "$1"', "sh", str(here.with_name("mess"))])
    assert not here.with_name("mess").exists()


def test_no_way_leads_out_of_the_lab(trio: Trio) -> None:
    routes = trio.a.run("ip route").stdout.strip()
    assert routes == "10.77.0.0/24 dev vec0 proto kernel scope link src 10.77.0.12"
    links = trio.lab.space.run(["ip", "-o", "link"]).splitlines()
    assert [line.split(":")[1].strip() for line in links] == ["lo", "br0", "tap1", "tap2", "tap3"]


# locks and leases; from here on guests are cut off, and come back


def test_locks_of_two_hosts_conflict(trio: Trio) -> None:
    ours, theirs = trio.a.locker("/srv/vm/conflict"), trio.b.locker("/srv/vm/conflict")
    assert ours.lock() == "ok"
    assert theirs.lock() == "EAGAIN"
    assert "0 EOF" in trio.server.locks()
    assert ours.unlock(100, 200) == "ok"
    assert theirs.lock(150, 10) == "ok"
    ours.close()
    assert theirs.lock() == "ok"
    theirs.close()


def test_partition_costs_the_lock_and_healing_tells(trio: Trio) -> None:
    ours = trio.a.locker("/srv/vm/partition")
    assert (ours.lock(), ours.write()) == ("ok", "ok")
    trio.lab.partition(trio.a)
    number = ours.ask("write 0 z")
    with pytest.raises(GuestTimeout):
        ours.answer(number, 1)
    with pytest.raises(GuestTimeout) as caught:
        trio.a.run("echo before; cat /srv/vm/partition", timeout=2)
    assert caught.value.stdout == "before\n"
    assert trio.a.run("echo alive").stdout == "alive\n"
    # A host that falls silent keeps its lock for one lease; only then may a rival have it.
    assert LEASE - 3 < seconds_until_locked(trio.b, "/srv/vm/partition", 30) < LEASE + 5
    trio.lab.heal(trio.a)
    assert ours.answer(number, 30) == "EIO"
    assert ours.write() == "EIO"
    assert "lost 1 locks" in trio.a.dmesg()
    ours.close()


def test_power_cut_of_the_holder_frees_the_lock_after_a_lease(trio: Trio) -> None:
    assert trio.a.locker("/srv/vm/cut").lock() == "ok"
    before = trio.a.boot_id()
    trio.a.power_cut()
    with pytest.raises(GuestDown):
        trio.a.run(["true"])
    assert LEASE - 3 < seconds_until_locked(trio.b, "/srv/vm/cut", 30) < LEASE + 5
    trio.a.boot()
    trio.a.mount(trio.server)
    assert trio.a.boot_id() != before


def test_storage_reboot_keeps_locks_by_reclaim(trio: Trio) -> None:
    ours, theirs = trio.a.locker("/srv/vm/reboot"), trio.b.locker("/srv/vm/reboot")
    assert (ours.lock(), ours.write(letter="a")) == ("ok", "ok")
    trio.server.reboot(down=2)
    assert ours.write(letter="b", timeout=30) == "ok"
    assert theirs.lock(timeout=40) == "EAGAIN"
    assert "lost" not in trio.a.dmesg()
    ours.close()
    theirs.close()


def test_a_server_that_forgets_its_clients_gives_their_locks_away(trio: Trio) -> None:
    ours = trio.a.locker("/srv/vm/forget")
    assert (ours.lock(), ours.write()) == ("ok", "ok")
    trio.lab.partition(trio.a)
    trio.server.reboot(forget=True)
    seconds_until_locked(trio.b, "/srv/vm/forget", 40)
    trio.lab.heal(trio.a)
    assert ours.write(timeout=40) == "EIO"
    ours.close()


def test_an_expired_client_loses_its_locks(trio: Trio) -> None:
    ours, theirs = trio.a.locker("/srv/vm/expire"), trio.b.locker("/srv/vm/expire")
    assert (ours.lock(), theirs.lock()) == ("ok", "EAGAIN")
    assert {client.name for client in trio.server.clients()} == {"Linux NFSv4.2 hyp-a", "Linux NFSv4.2 hyp-b"}
    trio.server.expire("hyp-a")
    assert theirs.lock() == "ok"
    assert ours.write() == "EIO"
    ours.close()
    theirs.close()


# the end of a lab


def lab_processes() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(BASE) in (entry / "cmdline").read_text():
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


DOOMED = """
import sys, time
from tests.lab import Lab
lab = Lab()
lab.hypervisor("doomed").wait()
print(lab.space.directory, flush=True)
time.sleep(300)
"""


def test_nothing_survives_a_killed_test_process() -> None:
    with subprocess.Popen([sys.executable, "-c", DOOMED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert len([pid for pid in lab_processes() if str(directory) in _command(pid)]) > 2
        process.kill()
    deadline = time.monotonic() + 10
    while directory.exists() or any(str(directory) in _command(pid) for pid in lab_processes()):
        assert time.monotonic() < deadline, "the lab outlived its owner"
        time.sleep(0.1)
    assert directory not in dead_labs()


def test_nothing_is_left_behind() -> None:
    with Lab() as lab:
        lab.hypervisor("brief").wait()
        directory = str(lab.space.directory)
        assert [pid for pid in lab_processes() if directory in _command(pid)]
    assert not [pid for pid in lab_processes() if directory in _command(pid)]
    assert not Path(directory).exists()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
