"""Whatever libvirt does to a VM's disks: what QEMU has open is what is pinned, and nothing gets slower for it."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.domain import disk_xml, domain_xml
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.scenarios.guarded import HOOK, SHARE, Guarded

pytestmark = pytest.mark.lab

ROUNDS = 9 if os.environ.get("VMGUARD_LONG") else 2
#: seconds after which what is pinned must be what is open
SOON = 2.0
NAME = "files"
CDROM = """
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/></disk>
<controller type='scsi' model='virtio-scsi'/>
"""
SCSI = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
<source file='{}'/><target dev='sdb' bus='scsi'/></disk>
"""


class Oracle:
    """The comparison, made in the guest."""

    def __init__(self, node: Guarded) -> None:
        script = f"{REPOSITORY}/tests/scenarios/inside/oracle.py"
        self._job = node.host.spawn([PYTHON, script, str(REPOSITORY), SHARE, NAME], stdin=True)
        self._asked = 0

    def check(self) -> dict[str, Any]:
        self._job.send(b"check\n")
        self._asked += 1
        deadline = time.monotonic() + 30
        while len(lines := self._job.output()[0].splitlines(keepends=True)) < self._asked or lines[-1][-1] != "\n":
            assert time.monotonic() < deadline, self._job.output()
            assert self._job.poll() is None, self._job.output()
            time.sleep(0.01)
        found: dict[str, Any] = json.loads(lines[-1])
        return found


class Bench:
    """One VM and all that libvirt can do to its files; each step is timed and, where it is guarded, checked."""

    def __init__(self, node: Guarded) -> None:
        self.node = node
        self.guarded = True
        self.oracle = Oracle(node)
        self.took: dict[tuple[bool, str], list[float]] = {}
        self.slowest_pin = 0.0

    def path(self, name: str) -> str:
        return f"{SHARE}/{NAME}-{name}.qcow2"

    def virsh(self, step: str, *words: str, check: bool = True, input: str | None = None) -> None:
        began = time.monotonic()
        self.node.host.libvirt.virsh(*words, timeout=120, check=check, input=input)
        self.took.setdefault((self.guarded, step), []).append(time.monotonic() - began)

    def expect(self, *, writes: tuple[str, ...], reads: tuple[str, ...] = ()) -> None:
        """These files are open, in these ways, and the same are pinned soon."""
        if not self.guarded:
            return
        found = self.oracle.check()
        wanted = {self.path(name): "exclusive" for name in writes} | {self.path(name): "shared" for name in reads}
        assert found["open"] == wanted, found
        assert found["pinned"] == wanted, f"{found}\n{self.node.log()}"
        assert found["after"] < SOON, found
        self.slowest_pin = max(self.slowest_pin, found["after"])

    def prepare(self) -> None:
        host = self.node.host
        for name in ("base", "extra", "cd"):
            host.put(self.path(name), heartbeat_disk("raw" if name == "cd" else "qcow2"))
        host.libvirt.define(domain_xml(NAME, disk_xml(self.path("base")), more=CDROM))

    def round(self) -> None:
        host = self.node.host
        host.run(f"rm -f {self.path('snap')} {self.path('copy')}")
        self.prepare()
        self.virsh("start", "start", NAME)
        self.expect(writes=("base",))
        self.virsh("hot-plug", "attach-device", NAME, "/dev/stdin", input=SCSI.format(self.path("extra")))
        self.expect(writes=("base", "extra"))
        self.virsh("unplug", "detach-disk", NAME, "sdb")
        self.expect(writes=("base",))
        self.virsh("change-media insert", "change-media", NAME, "hdc", self.path("cd"), "--insert", "--live")
        self.expect(writes=("base",), reads=("cd",))
        self.virsh("change-media eject", "change-media", NAME, "hdc", "--eject", "--live")
        self.expect(writes=("base",))
        spec = f"vda,file={self.path('snap')}"
        flags = ("--disk-only", "--atomic", "--no-metadata", "--diskspec", spec, "--diskspec", "hdc,snapshot=no")
        self.virsh("snapshot", "snapshot-create-as", NAME, *flags)
        self.expect(writes=("snap",), reads=("base",))
        self.virsh("blockcommit", "blockcommit", NAME, "vda", "--active", "--pivot", "--wait")
        self.expect(writes=("base",))
        copy = ("--dest", self.path("copy"), "--wait", "--pivot", "--transient-job", "--format", "qcow2")
        self.virsh("blockcopy", "blockcopy", NAME, "vda", *copy)
        self.expect(writes=("copy",))
        self.virsh("reset", "reset", NAME)
        self.expect(writes=("copy",))
        self.virsh("guest reboot", "send-key", NAME, "KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE")
        self.expect(writes=("copy",))
        self.virsh("managedsave", "managedsave", NAME)
        self.virsh("restore", "start", NAME)
        self.expect(writes=("copy",))
        self.virsh("destroy", "destroy", NAME)
        self.virsh("undefine", "undefine", NAME)

    def guard(self, guarded: bool) -> None:
        """With vmguard, or the same host without it: no hook, no daemon."""
        self.guarded = guarded
        if guarded:
            self.node.start_daemon()
        else:
            assert "ERROR" not in self.node.log()
            self.node.host.run(["rm", HOOK])
            self.node.kill_daemon()
        self.node.host.libvirt.restart()

    def report(self) -> None:
        print(f"\n{'step':20} {'without':>9} {'guarded':>9} {'more':>9}   (medians of {ROUNDS}, ms)")
        for guarded, step in self.took:
            if guarded and (False, step) in self.took:
                with_it, without = (statistics.median(self.took[kind, step]) * 1000 for kind in (True, False))
                print(f"{step:20} {without:9.0f} {with_it:9.0f} {with_it - without:+9.0f}")
        print(f"the slowest pin after a step: {self.slowest_pin * 1000:.0f} ms")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Lab() as lab:
        server = lab.nfs_server(lease=10, grace=10)
        node = Guarded(lab.hypervisor("hyp-a", libvirt=True))
        node.mount(server)
        yield Bench(node)


@pytest.mark.timeout(1800)
def test_what_qemu_has_open_is_what_is_pinned_after_every_operation(bench: Bench) -> None:
    for _ in range(ROUNDS):  # in turns, because this machine has other work, too
        for guarded in (True, False):
            bench.guard(guarded)
            bench.round()
    bench.report()
