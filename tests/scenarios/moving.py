"""Two hosts with vmguard and libvirt and a VM that moves between them while it runs; a third host that wants its disk.

with Lab() as lab:
    world = Movers(lab)
    disk = world.start("web")                       it beats on world.a
    with world.halfway("web") as moving: ...        the target's QEMU has a part of the memory, and stands still
    world.told(disk, "web")                         the beats on the disk are those that the VM was told
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from tests.lab import Job, Lab, NfsServer, Result, Storage
from tests.lab.domain import domain_xml
from tests.lab.heartbeat import counter, heartbeat_disk
from tests.lab.hypervisor import Hypervisor
from tests.scenarios.kept import Stored, until
from tests.support.guarded_guests import HOOK, SHARE, Guarded

#: noise in the slow VM's memory, so that moving it takes seconds
BALLAST = f"{SHARE}/ballast"
BALLAST_MIB = 16
LOADER = f"<qemu:arg value='-device'/><qemu:arg value='loader,file={BALLAST},addr=0x2000000,force-raw=on'/>"
NAMESPACE = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
#: libvirt gives a silent connection up after 6 s, not after 30
IMPATIENT = (
    "for c in qemu libvirtd; do printf 'keepalive_interval=2\\nkeepalive_count=2\\n' >> /etc/libvirt/$c.conf; done"
)
#: libvirt's ports for migrations begin at 49152, C000
MEMORY_COMES = "grep -q ':C0[0-9A-F][0-9A-F] [^ ]* 01 ' /proc/net/tcp /proc/net/tcp6"
NOWHERE = "02:00:00:00:0f:0f"
#: a hook of the target's libvirt: its QEMU stands still before it has read anything of what the source sends; all of
#: that finds room on the way
STOPPER = '#!/bin/sh\n[ "$2" != started ] || kill -STOP $(cat "/run/libvirt/qemu/$1.pid")\n'
ROOM = "for kind in rmem wmem; do echo 4096 8388608 8388608 > /proc/sys/net/ipv4/tcp_$kind; done"


class Movers:
    def __init__(
        self,
        lab: Lab,
        config: str = "",
        impatient: bool = False,
        more_exports: Mapping[str, str] | None = None,
        server: Storage | None = None,
        kernel: str | None = None,
    ) -> None:
        """Build the hosts, and a server unless there is one. kernel: of the hosts; see tests/lab/kernels.py."""
        self.lab = lab
        self._config, self._impatient = config, impatient
        self.storage: Storage = server or lab.nfs_server(lease=10, grace=10, more_exports=more_exports)
        hosts = [lab.hypervisor(name, libvirt=True, kernel=kernel) for name in ("hyp-a", "hyp-b")]
        self.third = lab.hypervisor("hyp-c", kernel=kernel)
        self.third.mount(self.storage)
        self.a, self.b = (self.join(host) for host in hosts)

    @property
    def server(self) -> NfsServer:
        """The storage, where it is one guest with the kernel's nfsd."""
        assert isinstance(self.storage, NfsServer)
        return self.storage

    def join(self, host: Hypervisor) -> Stored:
        """A host that has just been switched on takes its part."""
        node = Stored(host, self._config)
        node.mount(self.storage)
        node.start_daemon()
        if self._impatient:
            host.run(IMPATIENT)
        host.libvirt.restart()  # it looks for hooks only when it starts
        return node

    def xml(self, name: str, slow: bool = False) -> str:
        # Appended to: the same host may run it twice.
        xml = domain_xml(name, f"{SHARE}/{name}.qcow2", memory=64 if slow else 16)
        xml = xml.replace("<serial type='file'><source ", "<serial type='file'><source append='on' ")
        if slow:
            xml = xml.replace("<domain ", f"<domain {NAMESPACE} ")
            xml = xml.replace("</domain>", f"<qemu:commandline>{LOADER}</qemu:commandline></domain>")
        return xml

    def start(self, name: str, slow: bool = False) -> str:
        """A VM that beats on host a, guarded; its disk."""
        disk = f"{SHARE}/{name}.qcow2"
        self.a.host.put(disk, heartbeat_disk())
        if slow:
            self.a.host.run(f"[ -e {BALLAST} ] || head -c {BALLAST_MIB}M /dev/urandom > {BALLAST}", 60)
        self.a.host.libvirt.create(self.xml(name, slow))
        wait_beats(self.a, name)
        wait_summary(self.a, name, "guarded here, running")
        return disk

    def begin(self, name: str, *words: str) -> Job:
        """A migration from a to b under way."""
        where = [f"qemu+tcp://{self.b.host.address}/system", f"tcp://{self.b.host.address}"]
        return self.a.host.spawn(["virsh", "-q", "-c", "qemu:///system", "migrate", "--live", *words, name, *where])

    @contextlib.contextmanager
    def halfway(self, name: str) -> Iterator[Job]:
        """The slow VM's migration from a to b, its target stopped in the middle and let go on at the end."""
        job = self.begin(name, "--bandwidth", "4")
        self.wait_memory(name)
        self.stop(name)
        assert job.poll() is None, job.output()
        yield job
        self.b.host.run(f"kill -CONT $(cat /run/libvirt/qemu/{name}.pid) || true", check=False)

    def wait_memory(self, name: str) -> None:
        """Until its memory comes in. Before that libvirt talks to the target's QEMU, and would wait for its answers."""
        wait_summary(self.b, name, "incoming from hyp-a")
        until(lambda: self.b.host.run(MEMORY_COMES, check=False).returncode == 0, self.b.log)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """The two hosts do not hear each other any more; the storage hears both."""
        pairs = [(self.a.host, self.b.host), (self.b.host, self.a.host)]
        for one, other in pairs:
            one.run(f"ip neigh replace {other.address} lladdr {NOWHERE} dev vec0 nud permanent")
        yield
        for one, other in pairs:
            one.run(f"ip neigh del {other.address} dev vec0")

    @contextlib.contextmanager
    def at_the_switch(self, name: str) -> Iterator[Job]:
        """The source's guest is suspended and its QEMU has given its disks up; the target's has not begun."""
        stopper = f"{HOOK}.d/stopper"
        for node in (self.a, self.b):
            node.host.run(ROOM)
        self.b.host.put(stopper, STOPPER.encode(), mode=0o755)
        job = self.begin(name)
        until(lambda: self.a.host.libvirt.virsh("domstate", name).stdout.strip() == "paused", self.a.log)
        self.b.host.run(["rm", stopper])
        time.sleep(1)
        assert job.poll() is None, job.output()
        yield job

    def stop(self, name: str) -> None:
        self._signal("-STOP", name)

    def kill(self, name: str) -> None:
        self._signal("-9", name)

    def _signal(self, signal: str, name: str) -> None:
        """To the target's QEMU, as soon as libvirt has written down which one it is."""
        self.b.host.run(f"until [ -s /run/libvirt/qemu/{name}.pid ]; do sleep 0.1; done", 20)
        self.b.host.run(["kill", signal, str(self.b.host.libvirt.qemu_pid(name))])

    def failed(self, job: Job) -> Result:
        result = job.wait(60)
        assert result.returncode != 0
        return result

    def arrived(self, name: str, job: Job) -> None:
        result = job.wait(90)
        assert result.returncode == 0, result.stderr
        wait_summary(self.b, name, "guarded here, running", 30)
        wait_beats(self.b, name)
        wait_summary(self.a, name, "held by hyp-b")

    def stayed(self, name: str) -> None:
        """The VM goes on where it was, guarded, and nothing of it is left on the target."""
        wait_beats(self.a, name)
        wait_summary(self.a, name, "guarded here, running")
        wait_summary(self.b, name, "held by hyp-a")

    def over(self, name: str, *nodes: Guarded) -> None:
        """End it where it runs; no beat was lost, none written twice, none failed."""
        for node in nodes or (self.a, self.b):
            node.host.libvirt.virsh("destroy", name, check=False)
        for node in nodes or (self.a, self.b):
            wait_summary(node, name, "free")
        told = [node.host.libvirt.beats(name) for node in (self.a, self.b)]
        assert "E" not in "".join(told)
        # The last write may be on the disk without having been told.
        missing = counter(self.storage.get(f"{SHARE}/{name}.qcow2")) - sum(text.count(".") for text in told)
        assert missing in (0, 1), (missing, told)


def wait_beats(node: Guarded, name: str, count: int = 3) -> None:
    goal = node.host.libvirt.beats(name).count(".") + count
    deadline = time.monotonic() + 20
    while node.host.libvirt.beats(name).count(".") < goal:
        assert time.monotonic() < deadline, f"{name} does not beat on {node.name}\n{node.log()}"
        time.sleep(0.1)


def wait_summary(node: Guarded, name: str, wanted: str, timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while (found := node.check(name)["summary"]) != wanted:
        assert time.monotonic() < deadline, f"{node.name} says {found!r}, not {wanted!r}\n{node.log()}"
