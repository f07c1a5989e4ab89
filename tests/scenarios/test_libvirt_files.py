"""Whatever libvirt does to a VM's disks: nothing of it fails, and after it exactly what QEMU has open is pinned.

What the guard costs each operation is measured by tests/bench/operations.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import counter
from tests.support.guarded_guests import SHARE, Guarded
from tests.support.libvirt_operations import EXCLUSIVE, NAME, Step, domain, files, made, steps

pytestmark = pytest.mark.lab

LONG = bool(os.environ.get("VMGUARD_LONG"))
ROUNDS = 10 if LONG else 2
#: seconds after which what is pinned must be what is open; other labs run beside this one in the short form
SOON = 2.0 if LONG else 6.0


def path(name: str) -> str:
    return f"{SHARE}/{NAME}-{name}"


class Oracle:
    """The comparison, made in the guest."""

    def __init__(self, node: Guarded) -> None:
        script = f"{REPOSITORY}/tests/scenarios/inside/oracle.py"
        self._node = node
        self._job = node.host.spawn([PYTHON, script, str(REPOSITORY), SHARE, NAME], stdin=True)
        self._answers = 0

    def compare(self, wanted: dict[str, str]) -> dict[str, Any]:
        """What is open and what is pinned: as soon as both are ``wanted``, or after its patience."""
        self._job.send(json.dumps(wanted).encode() + b"\n")
        self._answers += 1
        line = self._job.wait_for(rf"\A(?:.*\n){{{self._answers - 1}}}(.+)\n", 60)[1]
        found: dict[str, Any] = json.loads(line)
        return found

    def check(self, title: str, wanted: dict[str, str]) -> float:
        """The seconds until exactly these files were open, and pinned in these modes."""
        found = self.compare(wanted)
        assert found["open"] == wanted, (title, found)
        assert found["pinned"] == wanted, f"{title}: {found}\n{self._node.log()}"
        assert found["after"] < SOON, (title, found)
        return float(found["after"])


class Host:
    """A guarded host with libvirt, and one VM with the files of the steps."""

    def __init__(self, lab: Lab) -> None:
        self.server = lab.nfs_server(lease=10, grace=10)
        self.node = Guarded(lab.hypervisor("hyp-a", libvirt=True))
        self.node.mount(self.server)
        self.node.start_daemon()
        self.virsh = self.node.host.libvirt.virsh
        self.node.host.libvirt.restart()  # it looks for hooks only when it starts
        self.oracle = Oracle(self.node)

    def prepare(self) -> None:
        self.node.host.run(["rm", "-f", *made(path)])
        for name, data in files(path).items():
            self.node.host.put(name, data)
        self.node.host.libvirt.define(domain(path))

    def do(self, step: Step) -> None:
        """Run it, and see the guest start anew where it has to: its counter does so, too."""
        before = self.counted(step) if step.resets else 0
        self.virsh(*step.words, timeout=120)
        deadline = time.monotonic() + 20
        while step.resets and self.counted(step) >= before:
            assert time.monotonic() < deadline, f"{step.title}: the guest goes on as if nothing had been"
            time.sleep(0.1)

    def counted(self, step: Step) -> int:
        """The beats since the guest started, as they are on the server's disk."""
        [disk] = [file for file, mode in step.open.items() if mode == EXCLUSIVE]
        return counter(self.server.get(disk))

    def wait_beats(self, count: int = 3) -> None:
        beats = self.node.host.libvirt.beats
        goal, deadline = beats(NAME).count(".") + count, time.monotonic() + 30
        while beats(NAME).count(".") < goal:
            assert time.monotonic() < deadline, f"it does not beat: {beats(NAME)[-50:]!r}\n{self.node.log()}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield Host(lab)


@pytest.mark.timeout(3600)
def test_what_qemu_has_open_is_what_is_pinned_after_every_operation(host: Host) -> None:
    took: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        host.prepare()
        for step in steps(path):
            host.do(step)
            took.setdefault(step.title, []).append(host.oracle.check(step.title, step.open))
            if step.open:
                host.wait_beats()
                assert "E" not in host.node.host.libvirt.beats(NAME), step.title
        host.virsh("undefine", NAME)
    assert not [line for line in host.node.log().splitlines() if line.startswith(("ERROR", "WARNING"))]
    for title, found in took.items():
        print(f"after {title + ':':14} what is open is pinned within {max(found):.2f} s ({len(found)} times)")


def test_control_without_the_daemon_what_is_open_is_not_what_is_pinned(host: Host) -> None:
    """The comparison can fail; and the next daemon pins what was opened meanwhile."""
    host.prepare()
    start, plug, *_, destroy = steps(path)
    host.do(start)
    host.oracle.check("start", start.open)
    host.node.kill_daemon()
    host.do(plug)
    found = host.oracle.compare(plug.open)
    assert found["open"] == plug.open
    assert found["pinned"] != plug.open
    host.node.start_daemon()
    host.oracle.check("hot-plug without a daemon", plug.open)
    host.do(destroy)
    host.oracle.check("destroy", {})
    host.virsh("undefine", NAME)
