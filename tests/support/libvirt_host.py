"""A private hypervisor: real libvirtd, virtlogd, QEMU and vmguard in namespaces of their own.

All of them have default settings and default paths. The machine's own libvirt does not see them, and all of their
processes end with the namespaces.

::

    with LibvirtHost() as host:
        host.define(domain)
        host.virsh("start", domain.uuid)
        host.pinned(domain) == host.open_disks(domain)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.sax.saxutils import escape, quoteattr

from tests.support import processes
from tests.support.guard import REPOSITORY, Answer, eventually, run
from tests.support.namespaces import Space
from tests.support.processes import track

# /dev has no kvm: where only root may use it, libvirt considers its cached QEMU capabilities outdated at every call and
# probes QEMU again, which takes seconds.
_FURNISH = """
mount -t tmpfs none /mnt
over() { mkdir -p /mnt/$1/upper /mnt/$1/work
         mount -t overlay -o lowerdir=$2,upperdir=/mnt/$1/upper,workdir=/mnt/$1/work none $2; }
over etc /etc
mkdir -p /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
over cache /var/cache/libvirt
over lib /var/lib
for folder in /run /var/lib/libvirt /var/log/libvirt; do mount -t tmpfs none $folder; done
mkdir /mnt/dev /mnt/dev/pts /mnt/dev/shm
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/kmsg /mnt/dev
mount -t devpts -o newinstance,ptmxmode=0666 none /mnt/dev/pts; ln -s pts/ptmx /mnt/dev/ptmx
ln -s /proc/self/fd /mnt/dev/fd
umount -R -l /dev || :  # libvirt moves the mounts below /dev and fails on hidden ones
mount --rbind /mnt/dev /dev
rm -rf /etc/vmguard /etc/libvirt/hooks /etc/libvirt/qemu /etc/libvirt/storage
mkdir -p /etc/vmguard /etc/libvirt/hooks
cat >> /etc/libvirt/qemu.conf <<.
cgroup_controllers = []
lock_manager = "{lock_manager}"
.
"""
HOOK = "etc/libvirt/hooks/qemu"
_LIBVIRTD_PATIENCE = 30.0


class Domain:
    """A small machine without network, USB and operating system; only its disks matter."""

    def __init__(self, name: str, *disks: Path, memory: int = 16, extra: str = "") -> None:
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.disks = list(disks)
        self.memory = memory
        self.extra = extra

    def xml(self) -> str:
        disks = "".join(disk_xml(path, f"vd{'abcdefgh'[number]}") for number, path in enumerate(self.disks))
        return (
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
            f"<name>{escape(self.name)}</name><uuid>{self.uuid}</uuid>"
            f"<memory unit='MiB'>{self.memory}</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
            "<emulator>/usr/bin/qemu-system-x86_64</emulator>"
            "<controller type='usb' model='none'/><controller type='scsi' model='virtio-scsi'/>"
            f"<memballoon model='none'/>{disks}</devices>{self.extra}</domain>"
        )


def disk_xml(path: Path, target: str, inside: str = "") -> str:
    """Return a ``<disk>`` element; the file's suffix is its format."""
    bus = "scsi" if target.startswith("sd") else "virtio"
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{path.suffix[1:]}' cache='none'/>"
        f"<source file={quoteattr(str(path))}/><target dev='{target}' bus='{bus}'/>{inside}</disk>"
    )


class LibvirtHost:
    """A private libvirt host. Needs root. ``guarded`` False: no hook and no daemon, for comparison."""

    def __init__(self, guarded: bool = True, virtlockd: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vmguard-real-", dir="/var/tmp"))
        self.folder.chmod(0o755)  # QEMU runs as libvirt-qemu
        self._services: list[subprocess.Popen[bytes]] = []
        self._mark = processes.mark()
        furnish = _FURNISH.replace("{lock_manager}", "lockd" if virtlockd else "nop")
        try:
            self.space = Space(furnish + self._more_furniture(), own_pids=True)
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        self.root = self.space.root
        try:
            self._furnish(guarded, virtlockd)
        except BaseException:
            self.end()
            raise

    def _more_furniture(self) -> str:
        return ""

    def _furnish(self, guarded: bool, virtlockd: bool) -> None:
        if guarded:
            self.install_hook()
            self.start_daemon()
        if virtlockd:
            self._serve("virtlockd")
        self._serve("virtlogd")
        self._start_libvirtd()
        # Probing QEMU takes seconds; do it before anything is measured.
        assert self.run("virsh", "domcapabilities", "--virttype", "qemu", "--machine", "pc").status == 0

    def _start_libvirtd(self) -> None:
        self._serve("libvirtd")
        assert eventually(lambda: self.run("virsh", "list").status == 0, _LIBVIRTD_PATIENCE), self.log("libvirtd")

    def restart_libvirtd(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send libvirtd a signal and start it again; the VMs keep running."""
        pid = self._pid_of("libvirtd")
        self.run("kill", f"-{number}", str(pid))
        assert eventually(lambda: pid not in self.pids())
        self._start_libvirtd()

    def _serve(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{Path(command[0]).name}.log").open("ab") as log:
            words = [*self.space.prefix, *command]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
            track(process, self._mark)
        self._services.append(process)
        return process

    def log(self, service: str) -> str:
        """Return the log of a service: ``libvirtd``, ``vmguard``."""
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End every process in the namespaces and remove the disks."""
        self.space.end()
        for process in self._services:
            process.wait(30)
        shutil.rmtree(self.folder)

    # -- vmguard --------------------------------------------------------------------------------------------------

    def install_hook(self) -> None:
        answer = run([sys.executable, "-m", "vmguard", "hook-script", "libvirt"], env=_environment())
        assert answer.status == 0, answer.err
        hook = self.root / HOOK
        hook.write_text(answer.out)
        hook.chmod(0o755)

    def use_hook(self, yes: bool) -> None:
        """Switch the hook on or off. libvirt silently skips a hook that is not executable."""
        (self.root / HOOK).chmod(0o755 if yes else 0o644)

    def start_daemon(self) -> None:
        wrapper = self.folder / "vmguard"
        if not wrapper.exists():
            wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m vmguard "$@"\n')
            wrapper.chmod(0o755)
        before = self.log("vmguard").count("ready, guarding") if (self.folder / "vmguard.log").exists() else 0
        self._serve(str(wrapper), "daemon")
        assert eventually(lambda: self.log("vmguard").count("ready, guarding") > before, 20), self.log("vmguard")

    def vmguard(self, *words: str) -> Answer:
        return self.run(str(self.folder / "vmguard"), *words)

    def status(self) -> list[dict[str, Any]]:
        vms: list[dict[str, Any]] = json.loads(self.vmguard("status", "--json").out)["vms"]
        return vms

    def daemon_pid(self) -> int:
        """Return the daemon's pid inside its namespace."""
        return self._pid_of("vmguard", "daemon")

    def _pid_of(self, *words: str) -> int:
        for pid in self.pids():
            if self.command_line(pid)[-len(words) :] == list(words):
                return pid
        raise AssertionError(f"no process {words}")

    # -- libvirt --------------------------------------------------------------------------------------------------

    def run(self, *command: str) -> Answer:
        return run([*self.space.prefix, *command])

    def virsh(self, *words: str) -> Answer:
        """Run virsh; a failure fails the test."""
        answer = self.run("virsh", *words)
        assert answer.status == 0, (words, answer.err, self.log("vmguard") if self._guarded() else "")
        return answer

    def _guarded(self) -> bool:
        return (self.folder / "vmguard.log").exists()

    def define(self, domain: Domain) -> Domain:
        path = self.folder / f"{domain.uuid}.xml"
        path.write_text(domain.xml())
        self.virsh("define", str(path))
        return domain

    def clear(self) -> None:
        """Destroy and undefine all domains, and remove everything but the logs from the folder."""
        for found in self.virsh("list", "--all", "--uuid").out.split():
            self.run("virsh", "destroy", found)
            self.virsh("undefine", found, "--snapshots-metadata", "--managed-save")
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)

    # -- the oracle: the facts, read from /proc by the test and not by vmguard ---------------------------------------

    def pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self.root / "proc") if name.isdigit()]

    def command_line(self, pid: int) -> list[str]:
        try:
            return (self.root / f"proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            return []

    def qemu_pid(self, domain: Domain) -> int:
        for pid in self.pids():
            words = self.command_line(pid)
            if words[:1] == ["/usr/bin/qemu-system-x86_64"] and domain.uuid in words:
                return pid
        raise AssertionError(f"no QEMU of {domain.name}")

    def files_of(self, pid: int) -> list[str]:
        """Return the paths that a process has open."""
        folder = self.root / f"proc/{pid}/fd"
        found = []
        for name in os.listdir(folder):
            try:
                found.append(os.readlink(folder / name))
            except OSError:
                continue
        return found

    def open_disks(self, domain: Domain) -> set[str]:
        """Return the files below this host's folder that QEMU has open."""
        return {path for path in self.files_of(self.qemu_pid(domain)) if path.startswith(f"{self.folder}/")}

    def pinned(self, domain: Domain) -> set[str]:
        """Return the files that vmguard reports as pinned; others it guards are prefixed with how it guards them."""
        files = [file for vm in self.status() if vm["uuid"] == domain.uuid for file in vm["files"]]
        return {file["path"] if file["guard"] == "pinned" else f"{file['guard']}: {file['path']}" for file in files}

    def wait_pinned(self, domain: Domain, seconds: float = 2.0) -> float:
        """Wait until exactly the files that QEMU has open are pinned; return the seconds it took."""
        began = time.monotonic()
        done = eventually(lambda: self.pinned(domain) == self.open_disks(domain), seconds)
        assert done, f"pinned {self.pinned(domain)}, open {self.open_disks(domain)}\n{self.log('vmguard')}"
        return time.monotonic() - began


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}
