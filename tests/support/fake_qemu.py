"""A process that vmguard takes for QEMU. Starts in milliseconds.

It has a VM's uuid on its command line and a pid file of libvirt; it opens, locks and closes disks on demand, as QEMU
does.

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
from tests.support.processes import track
from vmguard.adapters.libvirt.host import pid_file

#: bytes that QEMU locks in an image it writes to (block/file-posix.c): consistent read, write, resize; not shared
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
    """A fake QEMU that runs from its construction on.

    ``locking``: take QEMU's image locks, as stock QEMU does; QEMU of Proxmox takes none. ``words``: more arguments.
    """

    def __init__(
        self,
        run_dir: Path,
        vm: Vm,
        read_only: tuple[Path, ...] = (),
        locking: bool = True,
        words: tuple[str, ...] = (),
    ) -> None:
        self.vm = vm
        code = _CODE.format(bytes=_BYTES, locking=locking)
        command = [sys.executable, "-IS", "-c", code, "-uuid", vm.uuid, *words]
        pipe = subprocess.PIPE
        self.process = track(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
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
        """Open a file; return the number of its descriptor in the process."""
        return self._do("open", path, flags)

    def reopen(self, path: Path, flags: int = os.O_RDWR) -> int:
        """Open a file again, then close the old descriptor, as QEMU does when a file turns writable or read-only."""
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
        """Send SIGKILL, wait for the end, then remove the pid file, which libvirt also does later."""
        self.process.kill()
        self.process.communicate()
        self.pid_file.unlink(missing_ok=True)
