"""vmguard in a lab guest: the daemon, the hook as libvirt would call it, and VMs as real QEMU processes.

    node = Guarded(lab.hypervisor("hyp-a"))
    node.mount(srv); node.start_daemon()
    vm = node.start_vm(web)             the hook's claim, then QEMU
    node.check("web")                   vmguard check --json
    node.claim(web)                     the hook alone: Result

QEMU is started by hand, with the pid file that libvirt would write. It reaches its first write within a second, so many
VMs fit into a scenario. libvirt itself is tested in tests/scenarios/test_libvirt.py.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.lab import Job, Lab, NfsServer, Result, Storage
from tests.lab.guest import PYTHON, REPOSITORY
from tests.lab.heartbeat import heartbeat_disk
from tests.lab.hypervisor import Hypervisor
from tests.lab.qemu import EMULATOR, Vm

SHARE = "/srv/vm"
VMGUARD = f"{REPOSITORY}/.venv/bin/vmguard"
RUN_DIR = "/run/libvirt/qemu"
HOOK = "/etc/libvirt/hooks/qemu"


def image_format(path: str) -> str:
    return "qcow2" if path.endswith(".qcow2") else "raw"


@dataclass(frozen=True)
class Guest:
    """A VM and its disks on the share; the heartbeat VM writes to the first."""

    name: str
    disks: tuple[str, ...] = ()
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    #: an ISO in its drive
    cdrom: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        return self.disks or (f"{SHARE}/{self.name}.raw",)

    @property
    def xml(self) -> str:
        disks = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{image_format(path)}' cache='none'/>"
            f"<source file='{path}'/>"
            f"<target dev='vd{letter}' bus='virtio'/></disk>"
            for path, letter in zip(self.paths, "abcdefgh", strict=False)
        )
        if self.cdrom:
            disks += (
                f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{self.cdrom}'/>"
                "<target dev='hda' bus='ide'/><readonly/></disk>"
            )
        return (
            f"<domain type='qemu'><name>{self.name}</name><uuid>{self.uuid}</uuid><devices>{disks}</devices></domain>"
        )


#: a program that knows nothing of vmguard locks the file that it is given, whole, until it is killed
LOCK_WHOLE_FILE = """
import fcntl, struct, sys, time
stream = open(sys.argv[1], "r+b")
fcntl.fcntl(stream, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
print("locked", flush=True)
time.sleep(999)
"""


class Guarded:
    """A hypervisor of the lab with vmguard on it."""

    def __init__(self, host: Hypervisor, config: str = "") -> None:
        self.host = host
        self.config = config
        self.daemon: Job | None = None

    @property
    def name(self) -> str:
        return self.host.name

    def mount(self, server: Storage, target: str = SHARE, options: str = "vers=4.2,hard") -> None:
        self.host.mount(server, target, options=options)

    def install(self) -> None:
        """Install vmguard as the README says for an installation by hand."""
        self.host.put("/etc/vmguard/vmguard.yaml", self.config.encode())
        script = self.host.run([VMGUARD, "hook-script", "libvirt"]).stdout
        script = script.replace(f"VMGUARD_PYTHON={REPOSITORY}/.venv/bin/python3", f"VMGUARD_PYTHON={PYTHON}")
        self.host.put(HOOK, script.encode(), mode=0o755)
        self.host.run(["mkdir", "-p", RUN_DIR])

    def start_daemon(self, env: dict[str, str] | None = None) -> None:
        """Start the daemon and wait until it answers."""
        self.install()
        self.daemon = self.host.spawn([VMGUARD, "daemon"], env=env)
        deadline = time.monotonic() + 20.0
        while "ready" not in self.log():
            assert self.daemon.poll() is None, self.log()
            assert time.monotonic() < deadline, "the daemon does not get ready"
            time.sleep(0.05)

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(10)

    def log(self) -> str:
        """Return what the daemon has logged so far."""
        assert self.daemon is not None
        return self.daemon.output()[1]

    def hook(self, guest: Guest, operation: str, timeout: float = 30.0, env: dict[str, str] | None = None) -> Result:
        """Call the hook as libvirt does."""
        command = [HOOK, guest.name, operation, "end" if operation in ("stopped", "release") else "begin", "-"]
        return self.host.run(command, timeout, check=False, input=guest.xml, env=env)

    def claim(self, guest: Guest, timeout: float = 30.0) -> Result:
        return self.hook(guest, "prepare", timeout)

    def make_disks(self, guest: Guest) -> None:
        """Create the VM's disks with the heartbeat on them; they are on the server's disk when this returns."""
        for path in guest.paths:
            self.host.put(path, heartbeat_disk(image_format(path)), timeout=60)
        self.host.run("sync")

    def run_vm(self, guest: Guest, locking: str = "auto", cache: str = "none", more: Sequence[str] = ()) -> Vm:
        """Start QEMU alone, as libvirt does after its hook. more: arguments besides."""
        drives = []
        for path in guest.paths:
            options = f"file.locking={locking},if=virtio,cache={cache},werror=report"
            drives += ["-drive", f"file={path},format={image_format(path)},{options}"]
        if guest.cdrom:
            cd = f"file={guest.cdrom},format=raw,if=ide,media=cdrom,readonly=on,file.locking={locking}"
            drives += ["-drive", cd]
        identity = ["-name", f"guest={guest.name}", "-uuid", guest.uuid, "-pidfile", f"{RUN_DIR}/{guest.name}.pid"]
        machine = ["-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-serial", "stdio"]
        return Vm(self.host.spawn([EMULATOR, *identity, *machine, *drives, *more]))

    def start_vm(self, guest: Guest, locking: str = "auto", pinned: bool = True, cache: str = "none") -> Vm:
        """Start a VM: the hook's claim, QEMU, its first beats, the pin."""
        claimed = self.claim(guest)
        assert claimed.returncode == 0, claimed.stderr
        vm = self.run_vm(guest, locking, cache)
        vm.wait_beats(2)
        if pinned:
            self.wait_for(guest, lambda found: all(file["guard"] == "pinned" for file in found["files"]))
        return vm

    def status(self) -> list[dict[str, Any]]:
        answer = self.host.run([VMGUARD, "status", "--json"], 180.0, check=False)
        vms: list[dict[str, Any]] = json.loads(answer.stdout)["vms"]
        return vms

    def guarded(self, guest: Guest) -> dict[str, Any] | None:
        """Return the VM as this host guards it; None if it does not."""
        return next((vm for vm in self.status() if vm["uuid"] == guest.uuid), None)

    def wait_for(self, guest: Guest, wanted: Any, timeout: float = 60.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            found = self.guarded(guest)
            if found is not None and wanted(found):
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: {guest.name} is {found}\n{self.log()}")
            time.sleep(0.1)

    def wait_released(self, guest: Guest, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while self.guarded(guest) is not None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: {guest.name} is still guarded\n{self.log()}")
            time.sleep(0.1)

    def check(self, name: str, timeout: float = 30.0) -> dict[str, Any]:
        answer = self.host.run([VMGUARD, "check", name, "--json"], timeout, check=False)
        report: dict[str, Any] = json.loads(answer.stdout)
        report["exit"] = answer.returncode
        return report


def two_nodes(lab: Lab, config: str = "", libvirt: bool = False, grace: int = 10) -> tuple[NfsServer, Guarded, Guarded]:
    """Start a server with a lease of 10 s and two guarded hypervisors that mount it."""
    server = lab.nfs_server(lease=10, grace=grace)
    nodes = [Guarded(lab.hypervisor(name, libvirt=libvirt), config) for name in ("hyp-a", "hyp-b")]
    for node in nodes:
        node.mount(server)
        node.start_daemon()
        if libvirt:
            node.host.libvirt.restart()  # libvirtd looks for hooks only when it starts
    return server, nodes[0], nodes[1]
