"""VMs, disks and processes whose names are bytes that nobody expects: the daemon and every command go on.

One such name ended all metrics of a host. Whoever may start a process, or name a file, may choose it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process.test_adopt import Corner
from tests.support.guard import Answer, Guard, Vm, eventually, make_disk
from tests.support.namespaces import Space
from vmguard.adapters.linux import mounts, ofd
from vmguard.core.locks.owner_record import Owner, position, slot
from vmguard.core.locks.ranges import WHOLE
from vmguard.core.words import printable

pytestmark = pytest.mark.process

#: not UTF-8, half of a pair, an escape of the terminal's, a line feed, a turn of the direction of writing
NAME = "\udcff\x1b[31m\n  held by  : nobody\u202e"


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Corner]:
    corner = Corner(tmp_path)
    try:
        corner.guard.start()
        disk = make_disk(tmp_path / f"{NAME.replace('/', '-')}.raw")
        corner.start(NAME, disk, identity="11111111-2222-3333-4444-555555555555")
        assert eventually(lambda: corner.guard.vmguard("adopt", "--all").status == 0, 20), corner.guard.log
        yield corner
    finally:
        corner.end()


def said(guard: Guard, *words: str) -> str:
    """Run a command for people; return what it said, which no terminal obeys."""
    answer = guard.vmguard(*words)
    assert answer.status in (0, 1, 2), answer
    is_harmless(answer)
    return answer.out


def is_harmless(answer: Answer) -> None:
    text = answer.out + answer.err
    assert "\N{REPLACEMENT CHARACTER}" not in text, "it was not UTF-8"
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not any(line.strip().startswith("held by  : nobody") for line in text.split("\n"))


def of_metrics(text: str) -> dict[str, set[str]]:
    """Return the VMs of each metric; Prometheus' own parser reads it."""
    families = text_string_to_metric_families(text)
    return {family.name: {sample.labels.get("vm", "") for sample in family.samples} for family in families}


def test_a_vm_of_any_name_is_shown_by_every_command(corner: Corner, tmp_path: Path) -> None:
    guard, shown = corner.guard, printable(NAME)
    assert shown in said(guard, "status")
    assert shown in said(guard, "check", NAME)
    for words in (["status"], ["check", NAME]):
        found = json.loads(guard.vmguard("--json", *words).out)
        assert "error" not in found
        repr(found).encode()  # no half of a surrogate pair is in it
    assert of_metrics(said(guard, "metrics"))["vmguard_vm_frozen"] == {shown}
    said(guard, "metrics", "--output", str(tmp_path / "m.prom"))
    assert of_metrics((tmp_path / "m.prom").read_text())["vmguard_vm_frozen"] == {shown}
    assert all(line.isprintable() for line in guard.log.split("\n")), "the log of the daemon"


def test_a_daemon_finds_a_vm_of_any_name_again(corner: Corner) -> None:
    corner.kill_daemon()
    corner.guard.start()
    assert printable(NAME) in said(corner.guard, "status")
    assert printable(NAME) not in said(corner.guard, "completion", "names"), "a shell could not type it"


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with Guard(tmp_path_factory.mktemp("guard")) as guard:
        yield guard


def test_a_hostile_owner_record_adds_no_line_to_a_refusal(guard: Guard, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "evil.raw")
    folder = tmp_path / ".vmguard"
    folder.mkdir()
    owner = Owner(
        1,
        host="\x1b]0;owned\x07\x1b[2J\ud800h",
        vm="\x1b[5mvm\n  alive?   : no\udcff",
        claimed="\x1b[31m2026\n  since    : never",
        uuid="u",
        boot="b",
        path="/x\ny",
    )
    (folder / f"{disk.stat().st_ino}.owner").write_bytes(b"\0" * position(1) + slot(owner))
    fd = os.open(disk, os.O_RDWR)
    try:
        ofd.lock(fd, str(disk), ofd.WRITE, WHOLE)
        vm = Vm("x", [disk])
        refused = guard.hook("prepare", vm.xml(), "x")
        assert refused.status == 1
        is_harmless(refused)
        words = [line.partition(":")[0].strip() for line in refused.err.strip().split("\n")]
        assert words == ["vmguard", "held by", "since", "alive?", "do now"]
        said(guard, "who", str(disk))
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "name", ["-rf", "a\nb", "$(touch /tmp/x)", "';touch /tmp/x;'", "\u202ex", "../../etc/x", "a\x85\u2028b"]
)
def test_a_libvirt_vm_of_any_name_starts_and_ends(name: str, guard: Guard, tmp_path: Path) -> None:
    vm = Vm(name, [make_disk(tmp_path / "disk.raw")])
    started = guard.hook("prepare", vm.xml(), name[:100])
    assert (started.status, started.err) == (0, "")
    is_harmless(guard.vmguard("status"))
    guard.hook("release", vm.xml(), name[:100])
    assert eventually(lambda: guard.nothing_left(*vm.disks), 20), guard.leftovers(*vm.disks)


def test_a_mount_point_of_any_name_is_in_the_table(tmp_path: Path) -> None:
    point = tmp_path / "a\rb\x1b c"
    point.mkdir()
    with Space(f"mount -t tmpfs none '{point}'") as space:
        found = [mount for mount in mounts.mounts(space.pid) if mount.point == str(point)]
    assert [mount.type for mount in found] == ["tmpfs"]
