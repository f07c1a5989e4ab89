"""A process that is QEMU as far as vmguard looks: its uuid on the command line, a pid file of libvirt, disks that it
opens, locks as QEMU does and closes on demand. Starts in milliseconds.

::

    with FakeQemu(guard.libvirt_dir, vm) as qemu:     # has the VM's disks open for writing
        qemu.open(overlay); qemu.close(vm.disks[0])
        qemu.kill()
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.support.guard import Vm
from vmguard.adapters.libvirt.host import pid_file

#: bytes that QEMU locks of an image that it writes (block/file-posix.c): consistent read, write, resize; not shared
_BYTES = (100, 101, 103, 201, 203)
_CODE = """
import fcntl, json, os, struct, sys
files = {{}}
for line in sys.stdin:
    verb, path, flags = json.loads(line)
    if verb == "close":
        os.close(files.pop(path))
    else:
        fd = os.open(path, flags)
        for byte in {bytes} if {locking} else ():
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0))
        if verb == "reopen":
            os.close(files.pop(path))
        files[path] = fd
    print(files.get(path, -1), flush=True)
sys.stdin.read()
"""


class FakeQemu:
    """Running from its making on. ``locking``: it takes QEMU's image locks, as everywhere but on Proxmox."""

    def __init__(self, run_dir: Path, vm: Vm, read_only: tuple[Path, ...] = (), locking: bool = True) -> None:
        self.vm = vm
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _CODE.format(bytes=_BYTES, locking=locking), "-uuid", vm.uuid],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for disk in vm.disks:
            self.open(disk, os.O_RDONLY if disk in read_only else os.O_RDWR)
        self.pid_file = Path(pid_file(str(run_dir), vm.name))
        self.pid_file.write_text(f"{self.process.pid}\n")

    def __enter__(self) -> FakeQemu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def open(self, path: Path, flags: int = os.O_RDWR) -> int:
        """The number of the new descriptor."""
        return self._do("open", path, flags)

    def reopen(self, path: Path, flags: int = os.O_RDWR) -> int:
        """Open anew, then close the old descriptor, as QEMU does when a file turns writable or read-only."""
        return self._do("reopen", path, flags)

    def close(self, path: Path) -> None:
        self._do("close", path, 0)

    def _do(self, verb: str, path: Path, flags: int) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, str(path), flags]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; libvirt removes the pid file later."""
        self.process.kill()
        self.process.communicate()
        self.pid_file.unlink(missing_ok=True)
