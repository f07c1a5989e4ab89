"""Storage that cannot be trusted or does not answer: a start is refused in time, in words, with nothing locked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer, Result
from tests.lab.guest import PYTHON
from tests.support.guarded_guests import RUN_DIR, SHARE, VMGUARD, Guarded, Guest

pytestmark = pytest.mark.lab

CONFIG = "hook: {wait: 1s, timeout: 4s}\n"
SQUASHED = "/srv/squashed"
_OPEN = """
import os, sys, time
files = [os.open(path, os.O_RDWR) for path in sys.argv[1:3]]
time.sleep(999)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Lab, NfsServer, Guarded]]:
    with Lab() as lab:
        server = lab.nfs_server(
            lease=10, grace=15, nfs3=True, more_exports={SQUASHED: "rw,sync,insecure,no_subtree_check,root_squash"}
        )
        node = Guarded(lab.hypervisor("hyp-a"), CONFIG)
        node.mount(server)
        node.start_daemon()
        yield lab, server, node


def locks(node: Guarded) -> list[str]:
    return [line for line in node.host.get("/proc/locks").decode().splitlines() if "OFDLCK" in line]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("vers=3,hard", "NFSv3"),
        ("vers=3,nolock,hard", "stay on this host"),
        ("vers=4.2,ro,nosharecache", "read-only"),
    ],
)
def test_a_mount_whose_locks_prove_nothing_is_refused(
    place: tuple[Lab, NfsServer, Guarded], options: str, words: str
) -> None:
    _, server, node = place
    guest = Guest("mounted", ("/srv/other/mounted.raw",))
    node.make_disks(Guest("mounted", (f"{SHARE}/mounted.raw",)))
    node.mount(server, "/srv/other", options)
    refused = node.claim(guest)
    assert refused.returncode == 1
    node.host.run(["umount", "/srv/other"])
    assert words in refused.stderr, refused.stderr
    assert locks(node) == []


def test_where_root_is_squashed_the_disks_owner_claims_and_writes_the_record(
    place: tuple[Lab, NfsServer, Guarded],
) -> None:
    _, server, node = place
    server.run(["chown", "64055:64055", SQUASHED])
    server.run(["chmod", "0711", SQUASHED])
    node.host.mount(server, "/srv/squashed", export=SQUASHED)
    disk = "/srv/squashed/own.raw"
    server.run(f"truncate -s 1M {SQUASHED}/own.raw; chown 64055:64055 {SQUASHED}/own.raw; chmod 600 {SQUASHED}/own.raw")
    guest = Guest("squashed", (disk,))
    claimed = node.claim(guest)
    assert claimed.returncode == 0, claimed.stderr
    node.wait_for(guest, lambda found: found["files"][0]["epoch"] == 1)
    assert "own.raw" in node.host.run([VMGUARD, "who", disk], 20).stdout
    # what is plugged in later is on record, too: the daemon writes it, as root
    plugged = "/srv/squashed/plugged.raw"
    server.run(f"install -o 64055 -g 64055 -m 600 {SQUASHED}/own.raw {SQUASHED}/plugged.raw")
    user = ["setpriv", "--reuid", "64055", "--regid", "64055", "--clear-groups"]
    qemu = node.host.spawn([*user, PYTHON, "-c", _OPEN, disk, plugged, "-uuid", guest.uuid])
    node.host.put(f"{RUN_DIR}/squashed.pid", str(qemu.wait_started()).encode())
    node.wait_for(guest, lambda found: [file["epoch"] for file in found["files"]] == [1, 1])
    qemu.kill()
    node.hook(guest, "release")
    node.wait_released(guest)


def test_a_server_that_is_away_delays_no_start_for_longer_than_the_hooks_deadline(
    place: tuple[Lab, NfsServer, Guarded],
) -> None:
    lab, _, node = place
    guest = Guest("away")
    node.make_disks(guest)
    lab.partition(node.host)
    began = time.monotonic()
    refused = node.claim(guest)
    took = time.monotonic() - began
    report = node.host.run([VMGUARD, "--timeout", "3", "who", guest.paths[0]], 30, check=False)
    lab.heal(node.host)
    assert refused.returncode == 1
    assert "did not answer in time while" in refused.stderr
    assert took < 6
    assert report.returncode == 3
    assert "did not answer" in report.stderr
    node.host.run(["ls", SHARE], 60)
    assert locks(node) == []


def test_in_a_grace_period_a_start_is_refused_in_time_and_works_after_it(
    place: tuple[Lab, NfsServer, Guarded],
) -> None:
    _, server, node = place
    guest = Guest("grace")
    node.make_disks(guest)
    server.reboot(down=0)
    node.host.run(["ls", SHARE], 60)
    began = time.monotonic()
    refused = node.claim(guest)
    took = time.monotonic() - began
    if refused.returncode == 0:
        pytest.fail("the server was not in its grace period: nothing was tested")
    assert took < 6, refused.stderr
    assert "grace period" in refused.stderr
    while node.claim(guest).returncode:
        assert time.monotonic() - began < 60
    node.hook(guest, "release")
    node.wait_released(guest)


def test_a_full_or_read_only_share_does_not_stand_in_the_way(place: tuple[Lab, NfsServer, Guarded]) -> None:
    _, server, node = place
    guest = Guest("full")
    node.make_disks(guest)
    folder = f"{SHARE}/.vmguard"
    server.run(f"rm -rf {folder}; echo in the way > {folder}")
    claimed = node.claim(guest)
    assert claimed.returncode == 0, claimed.stderr
    deadline = time.monotonic() + 10
    while "no owner record" not in node.log():
        assert time.monotonic() < deadline, node.log()
        time.sleep(0.1)
    node.hook(guest, "release")
    node.wait_released(guest)
    server.run(["rm", "-f", folder])


def test_two_starts_of_one_vm_at_once_end_with_one_claim(place: tuple[Lab, NfsServer, Guarded]) -> None:
    _, _, node = place
    guest = Guest("twice-at-once")
    node.make_disks(guest)
    results: list[Result] = []
    threads = [threading.Thread(target=lambda: results.append(node.claim(guest))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 in [result.returncode for result in results]
    assert len(node.status()) == 1
    assert len(locks(node)) == 3
    node.hook(guest, "release")
    node.wait_released(guest)
