"""QEMU started by hand in a guest, with the heartbeat VM on its disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.lab.channel import Job
from tests.lab.errors import GuestTimeout

if TYPE_CHECKING:
    from tests.lab.guest import Guest

EMULATOR = "/usr/bin/qemu-system-x86_64"


class Vm:
    """A running QEMU whose standard output is the VM's serial line: one mark per write.

    vm = Vm.start(host, "/srv/vm/vm1.qcow2")
    vm.wait_beats(3)        until 3 more writes were acknowledged
    vm.beats()              "....EE": '.' acknowledged to the VM, 'E' failed
    vm.job                  its process: pid, kill(), wait(), output()
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    @classmethod
    def start(
        cls, host: Guest, disk: str, format: str = "qcow2", locking: str = "auto", cache: str = "none", memory: int = 16
    ) -> Vm:
        """Start QEMU. memory: MiB. locking: QEMU's own image locks, "off" as on Proxmox, "auto" as elsewhere.

        An I/O error is reported to the VM (werror=report): the VM goes on and prints 'E'.
        """
        drive = f"file={disk},format={format},file.locking={locking},if=virtio,cache={cache},werror=report"
        command = [EMULATOR, "-accel", "tcg", "-m", str(memory), "-nodefaults", "-display", "none"]
        return cls(host.spawn([*command, "-serial", "stdio", "-drive", drive]))

    def beats(self) -> str:
        return self.job.output()[0]

    def wait_beats(self, count: int, timeout: float = 20.0, mark: str = ".") -> None:
        """Wait for `count` more beats with a mark; `timeout` in seconds."""
        goal = self.beats().count(mark) + count
        deadline = time.monotonic() + timeout
        while self.beats().count(mark) < goal:
            if time.monotonic() > deadline or self.job.poll() is not None:
                out, err = self.job.output()
                raise GuestTimeout("qemu", f"{count} times {mark!r}", timeout, out.encode(), err.encode())
            time.sleep(0.02)

    def kill(self) -> None:
        """Send QEMU SIGKILL and wait until it is gone."""
        self.job.kill()
        self.job.wait(10)
